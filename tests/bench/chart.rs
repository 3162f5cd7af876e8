//! Figures as SVG.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
/// Where bars and curves begin.
const LEFT: f64 = 140.0;
const LINE: f64 = 20.0;
const CURVE: f64 = 180.0;
const COLOURS: [&str; 5] = ["#4878a8", "#c8683c", "#5a9a5a", "#8a6ab0", "#8c8c8c"];

pub(crate) enum Panel {
    Bars {
        title: String,
        bars: Vec<Bar>,
    },
    /// One curve or more over the same places, which are evenly spaced.
    Curves {
        title: String,
        places: Vec<String>,
        curves: Vec<(String, Vec<f64>)>,
    },
}

pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// Written behind it.
    pub(crate) text: String,
}

/// All panels, one below the other.
pub(crate) fn draw(panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut top = LINE;
    for panel in panels {
        top += match panel {
            Panel::Bars { title, bars } => draw_bars(&mut body, top, title, bars),
            Panel::Curves { title, places, curves } => {
                draw_curves(&mut body, top, title, places, curves)
            }
        };
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn draw_bars(svg: &mut String, top: f64, title: &str, bars: &[Bar]) -> f64 {
    text(svg, 10.0, top, "start", title, true);
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top + LINE;
    for (n, bar) in bars.iter().enumerate() {
        let width = bar.value / most * (WIDTH - LEFT - 230.0);
        let colour = COLOURS[usize::from(n > 0)];
        text(svg, LEFT - 8.0, y, "end", &bar.label, false);
        writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"13\" fill=\"{colour}\"/>",
            y - 11.0
        )
        .expect("text");
        text(svg, LEFT + width + 6.0, y, "start", &bar.text, false);
        y += LINE;
    }
    y + LINE - top
}

fn draw_curves(
    svg: &mut String,
    top: f64,
    title: &str,
    places: &[String],
    curves: &[(String, Vec<f64>)],
) -> f64 {
    text(svg, 10.0, top, "start", title, true);
    let bottom = top + CURVE;
    let all = curves.iter().flat_map(|(_, values)| values).copied();
    let most = all.fold(f64::MIN_POSITIVE, f64::max);
    let step = (WIDTH - LEFT - 160.0) / f64::from(u32::try_from(places.len()).expect("few"));
    let x = |n: usize| LEFT + step * f64::from(u32::try_from(n).expect("few"));
    for (n, place) in places.iter().enumerate() {
        text(svg, x(n), bottom + 16.0, "middle", place, false);
    }
    for (n, (name, values)) in curves.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let y = |value: f64| bottom - value / most * (CURVE - 2.0 * LINE);
        let points =
            values.iter().enumerate().map(|(n, value)| format!("{:.1},{:.1}", x(n), y(*value)));
        let points = points.collect::<Vec<_>>().join(" ");
        writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>")
            .expect("text");
        for (n, value) in values.iter().enumerate() {
            text(svg, x(n), y(*value) - 5.0, "middle", &short(*value), false);
        }
        let last = values.last().map_or(bottom, |value| y(*value));
        text(svg, x(values.len()) - step + 30.0, last + 4.0, "start", name, false);
    }
    CURVE + 3.0 * LINE
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str, bold: bool) {
    let weight = if bold { "bold" } else { "normal" };
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{text}</text>"
    )
    .expect("text");
}
