//! The page itself, which is part of the program.

/// Content type and text of a path.
pub(super) fn find(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("assets/index.html")),
        "/style.css" => ("text/css; charset=utf-8", include_str!("assets/style.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("assets/page.js")),
        "/plot.js" => ("text/javascript; charset=utf-8", include_str!("assets/plot.js")),
        "/format.js" => ("text/javascript; charset=utf-8", include_str!("assets/format.js")),
        "/favicon.svg" => ("image/svg+xml", include_str!("assets/favicon.svg")),
        _ => return None,
    })
}
