//! A frontier as an SVG: bits of a weight against perplexity, and against KL.

use crate::frontier::Point;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (1200, 520);
/// One a series.
pub const COLOURS: [RGBColor; 9] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0xff, 0x98, 0x96),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// One line a series, in the order they come in.
pub fn write(file: &Path, title: &str, points: &[Point]) {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let root = root.titled(title, ("sans-serif", 22)).unwrap();
    let [left, right] = <[_; 2]>::try_from(root.split_evenly((1, 2))).ok().expect("two halves");
    panel(&left, "perplexity", points, |p| p.perplexity[0]);
    panel(&right, "mean KL from the original, nats", points, |p| p.kl[0]);
    root.present().unwrap();
}

fn panel(area: &DrawingArea<SVGBackend, Shift>, label: &str, points: &[Point], y: fn(&Point) -> f64) {
    let range = |of: fn(&Point) -> f64| {
        let values = points.iter().map(of);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max))
    };
    let ((left, right), (low, high)) = (range(|p| p.bits), range(y));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left - 0.2..right + 0.2, (low * 0.97..high * 1.03).log_scale())
        .unwrap();
    chart.configure_mesh().x_desc("bits of a weight, everything counted").y_desc(label).light_line_style(WHITE).draw().unwrap();
    for (series, colour) in points.chunk_by(|a, b| a.series == b.series).zip(COLOURS.iter().cycle()) {
        let line: Vec<(f64, f64)> = series.iter().map(|p| (p.bits, y(p))).collect();
        chart
            .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))
            .unwrap()
            .label(series[0].series)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        chart.draw_series(line.iter().map(|&at| Circle::new(at, 3, colour.filled()))).unwrap();
    }
    let labels = chart.configure_series_labels();
    { labels }.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.8)).border_style(BLACK).draw().unwrap();
}
