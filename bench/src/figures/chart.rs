//! Grouped bars as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 50.0;
/// Told apart in grey too.
const COLOURS: [&str; 6] = ["#1b4965", "#5fa8d3", "#b5651d", "#f2b134", "#6a994e", "#9d4edd"];

/// Bars of one colour, one for each group.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend calls them.
    pub name: String,
    /// Their heights; there is no bar where there is no value.
    pub values: Vec<Option<f64>>,
}

/// A plot of groups of bars.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above all.
    pub title: String,
    /// What is measured, with its unit.
    pub axis: String,
    /// What is below each group.
    pub groups: Vec<String>,
    /// One bar of each in every group.
    pub series: Vec<Series>,
    /// A line across, with what it is called.
    pub limit: Option<(String, f64)>,
}

impl Chart {
    /// The plot as a document.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let top = self.top();
        let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
        let mut svg = String::new();
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
        );
        text(&mut svg, (LEFT, 22.0), "start", 15, &self.title);
        text(&mut svg, (LEFT, TOP - 12.0), "end", 12, &self.axis);
        let steps = 4;
        for step in 0..=steps {
            let value = top * f64::from(step) / f64::from(steps);
            line(&mut svg, y(value), "#dddddd", "");
            text(&mut svg, (LEFT - 6.0, y(value) + 4.0), "end", 12, &format!("{value:.2}"));
        }
        self.bars(&mut svg, y);
        self.legend(&mut svg);
        if let Some((name, value)) = &self.limit {
            line(&mut svg, y(*value), "black", " stroke-dasharray=\"6 4\"");
            text(&mut svg, (WIDTH - RIGHT, y(*value) - 5.0), "end", 12, &format!("{name} {value:.2}"));
        }
        svg + "</svg>\n"
    }

    /// The value at the upper end of the axis: a round one above all.
    fn top(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| series.values.iter().flatten().copied());
        let largest = values.chain(self.limit.iter().map(|(_, value)| *value)).fold(0.0, f64::max);
        if largest <= 0.0 || !largest.is_finite() {
            return 1.0;
        }
        let unit = 10f64.powf(largest.log10().floor()) / 5.0;
        (largest * 1.05 / unit).ceil() * unit
    }

    fn bars(&self, svg: &mut String, y: impl Fn(f64) -> f64) {
        let group = (WIDTH - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        for (place, name) in self.groups.iter().enumerate() {
            let left = LEFT + group * place as f64;
            text(svg, (left + group / 2.0, HEIGHT - BOTTOM + 20.0), "middle", 12, name);
            // Bars that are not there leave no gap.
            let present: Vec<_> = self
                .series
                .iter()
                .enumerate()
                .filter_map(|(number, series)| Some((number, series.values.get(place).copied().flatten()?)))
                .collect();
            let width = group * 0.8 / present.len().max(self.series.len().min(4)).max(1) as f64;
            let begin = left + (group - width * present.len() as f64) / 2.0;
            for (at, (number, value)) in present.into_iter().enumerate() {
                let (x, colour) = (begin + width * at as f64, COLOURS[number % COLOURS.len()]);
                let (above, height) = (y(value), y(0.0) - y(value));
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{above:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                    width * 0.92
                );
                text(svg, (x + width * 0.46, above - 3.0), "middle", 10, &format!("{value:.2}"));
            }
        }
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let _ =
                writeln!(svg, "<rect x=\"{x:.1}\" y=\"32\" width=\"11\" height=\"11\" fill=\"{colour}\"/>");
            text(svg, (x + 16.0, 42.0), "start", 12, &series.name);
            x += 34.0 + 7.0 * series.name.chars().count() as f64;
        }
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>"
    );
}

fn line(svg: &mut String, y: f64, colour: &str, more: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\"{more}/>",
        WIDTH - RIGHT
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let series =
            |name: &str, values: &[Option<f64>]| Series { name: name.into(), values: values.to_vec() };
        Chart {
            title: "a & b < c".into(),
            axis: "Mpps".into(),
            groups: vec!["1k".into(), "1m".into()],
            series: vec![series("dr", &[Some(0.9), Some(0.8)]), series("<peer>", &[None, Some(0.5)])],
            limit: Some(("limit".into(), 0.98)),
        }
    }

    /// Every element is closed, in order, and nothing else looks like one.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let Some((tag, rest)) = part.split_once('>') else { return false };
            if rest.contains('>') || tag.matches('"').count() % 2 != 0 {
                return false;
            }
            let name = tag.trim_matches('/').split_whitespace().next().unwrap_or_default();
            if let Some(closed) = tag.strip_prefix('/') {
                if open.pop() != Some(closed) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        let entities = svg.split('&').skip(1);
        open.is_empty()
            && entities.into_iter().all(|e| ["amp;", "lt;", "gt;"].iter().any(|k| e.starts_with(k)))
    }

    #[test]
    fn a_plot_is_well_formed() {
        let svg = chart().to_svg();
        assert!(is_well_formed(&svg), "{svg}");
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
        assert!(!is_well_formed("<svg><text>a & b</text></svg>"));
        assert!(!is_well_formed("<svg><text>a</svg>"));
    }

    #[test]
    fn there_is_a_bar_for_each_value() {
        let svg = chart().to_svg();
        // The background, two in the legend, and three of four values.
        assert_eq!(svg.matches("<rect ").count(), 1 + 2 + 3, "{svg}");
        assert_eq!(svg.matches("stroke-dasharray").count(), 1);
        assert!(svg.contains("a &amp; b &lt; c") && svg.contains("&lt;peer&gt;"));
    }

    #[test]
    fn the_axis_ends_above_all_values() {
        for (largest, top) in
            [(0.98, 1.04), (0.9, 0.96), (2.2, 2.4), (14.0, 16.0), (0.0, 1.0), (f64::NAN, 1.0)]
        {
            let chart = Chart { limit: Some(("x".into(), largest)), series: Vec::new(), ..chart() };
            assert!((chart.top() - top).abs() < 1e-9, "{largest}: {}", chart.top());
            assert!(is_well_formed(&chart.to_svg()));
        }
    }
}
