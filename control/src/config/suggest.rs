//! What somebody may have meant.

/// The name that is nearest to what was written, if any is near.
pub(super) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    let distance = |name: &str| strsim::osa_distance(&written, name);
    let nearest = known.iter().min_by_key(|name| distance(name))?;
    let near = distance(nearest) <= (nearest.len().max(written.len()) / 3).max(1);
    let begins = written.len() >= 3 && nearest.starts_with(&written);
    (near || begins).then_some(*nearest)
}

/// The question for the nearest key.
pub(super) fn did_you_mean(written: &str, known: &[&str]) -> Option<String> {
    nearest(written, known).map(|name| format!("did you mean `{name}`? configs/all.toml explains every key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["interfaces", "workers", "connections_per_worker"];
        for (written, meant) in [
            ("interface", Some("interfaces")),
            ("wrokers", Some("workers")),
            ("WORKERS", Some("workers")),
            ("connections", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
    }
}
