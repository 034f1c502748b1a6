//! Charts over time as inline SVG: areas on one time axis.
//!
//! Colours are classes, so that the page's style gives them for light and
//! dark. The drawing is stretched to its place, and holds no text: labels are
//! the page's, so that they stay legible on a telephone. Each step has a title,
//! which browsers show where the pointer rests.

use std::fmt::Write as _;

/// The drawing's own units.
pub const WIDTH: f64 = 1000.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 220.0;

/// A chart.
#[derive(Debug)]
pub struct Chart<'a> {
    /// What it shows, for those who cannot see it.
    pub label: &'a str,
    /// The value at the top.
    pub top: f64,
    /// From the largest to the smallest: class and a value for each step.
    pub areas: Vec<(&'a str, Vec<f64>)>,
    /// Single values: class, step and value.
    pub dots: Vec<(&'a str, usize, f64)>,
    /// A line across: class and value.
    pub line: Option<(&'a str, f64)>,
    /// A title for each step.
    pub titles: Vec<String>,
}

/// The least of 1, 2, 5, 10, 20 … that is not below a value: the axis' top.
#[must_use]
pub fn top(value: f64) -> f64 {
    let mut step = 1.0;
    loop {
        for factor in [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0] {
            if step * factor >= value {
                return step * factor;
            }
        }
        step *= 10.0;
        if !step.is_finite() {
            return value;
        }
    }
}

impl Chart<'_> {
    /// The `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\n",
            super::html::escaped(self.label)
        );
        for quarter in 0..=3 {
            let y = HEIGHT * f64::from(quarter) / 4.0;
            // Writing to a String cannot fail.
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M0 {y:.1}H{WIDTH}\"/>");
        }
        for (class, values) in &self.areas {
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"{}\"/>", self.area(values));
        }
        if let Some((class, value)) = self.line {
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M0 {:.1}H{WIDTH}\"/>",
                self.y(value)
            );
        }
        for (class, step, value) in &self.dots {
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{:.1} {:.1}h0\"/>",
                (self.x(*step) + self.x(step + 1)) / 2.0,
                self.y(*value)
            );
        }
        for (step, title) in self.titles.iter().enumerate() {
            let (left, right) = (self.x(step), self.x(step + 1));
            let _ = writeln!(
                svg,
                "<rect class=\"hit\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\"><title>{}</title></rect>",
                right - left,
                super::html::escaped(title)
            );
        }
        svg.push_str("</svg>");
        svg
    }

    /// Steps as one closed path.
    fn area(&self, values: &[f64]) -> String {
        let mut path = format!("M0 {HEIGHT}");
        for (step, value) in values.iter().enumerate() {
            let _ = write!(path, "V{:.1}H{:.1}", self.y(*value), self.x(step + 1));
        }
        let _ = write!(path, "V{HEIGHT}Z");
        path
    }

    fn x(&self, step: usize) -> f64 {
        #[allow(clippy::cast_precision_loss)] // some hundred steps
        let share = step as f64 / self.titles.len().max(1) as f64;
        WIDTH * share
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.top > 0.0 {
            value / self.top
        } else {
            0.0
        };
        HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number() {
        for (value, expected) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (299.0, 300.0),
            (301.0, 400.0),
            (7_000_000.0, 8_000_000.0),
        ] {
            let top = top(value);
            assert!((top - expected).abs() < 1e-9, "{value}: {top}");
        }
    }

    #[test]
    fn values_stay_within_the_drawing() {
        let chart = Chart {
            label: "<&\">",
            top: 10.0,
            areas: vec![("a", vec![5.0, 20.0, -1.0])],
            dots: vec![("d", 0, 10.0)],
            line: Some(("l", 10.0)),
            titles: vec!["<one>".into(), "two".into(), "three".into()],
        };
        let svg = chart.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let area = document
            .descendants()
            .find(|node| node.attribute("class") == Some("a"));
        assert_eq!(
            area.unwrap().attribute("d"),
            Some("M0 220V110.0H333.3V0.0H666.7V220.0H1000.0V220Z")
        );
        let title = document
            .descendants()
            .find(|node| node.has_tag_name("title"));
        assert_eq!(title.unwrap().text(), Some("<one>"));
    }

    #[test]
    fn nothing_is_a_chart_too() {
        let chart = Chart {
            label: "",
            top: top(0.0),
            areas: vec![("a", vec![])],
            dots: vec![],
            line: None,
            titles: vec![],
        };
        assert!(roxmltree::Document::parse(&chart.svg()).is_ok());
    }
}
