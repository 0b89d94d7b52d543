//! What was seen in training: a line a step, as a table and as curves.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A training, or one phase of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingReport {
    /// What it was for.
    pub name: String,
    /// How it ended.
    pub end: End,
    /// A line a step.
    pub lines: Vec<Line>,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All steps were taken.
    Finished,
    /// What was held out did not get better any more.
    NoProgress,
    /// The loss rose suddenly, or was no number; the best state was restored.
    Diverged,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Finished => "all steps were taken",
            Self::NoProgress => "it was stopped when the held-out loss did not fall any more",
            Self::Diverged => "it was stopped because the loss rose suddenly or was no number; the best state before was restored",
        })
    }
}

/// A step of the optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// From 1.
    pub step: u64,
    /// Trained on so far.
    pub tokens: u64,
    /// Mean over the step's tokens, of the sum of all losses; may be no number.
    #[serde(deserialize_with = "number_or_none")]
    pub loss: f64,
    /// Its parts by name, each with its weight.
    #[serde(deserialize_with = "numbers_or_none")]
    pub parts: Vec<(String, f64)>,
    /// Of the gradients, before they are clipped.
    #[serde(deserialize_with = "number_or_none")]
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Of this step.
    pub tokens_per_s: f64,
    /// Loss on what was held out, where it was evaluated behind this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
}

/// JSON has no word for what is not a number but null.
fn number_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|number| number.unwrap_or(f64::NAN))
}

fn numbers_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, f64)>, D::Error> {
    let parts = Vec::<(String, Option<f64>)>::deserialize(deserializer)?;
    Ok(parts.into_iter().map(|(name, number)| (name, number.unwrap_or(f64::NAN))).collect())
}

impl TrainingReport {
    /// As a table for spreadsheets.
    pub fn csv(&self) -> String {
        // Not every step has all of them.
        let names: BTreeSet<&str> = self.lines.iter().flat_map(|line| line.parts.iter().map(|(name, _)| name.as_str())).collect();
        let mut table = ["step", "tokens", "loss"].into_iter().chain(names.iter().copied()).collect::<Vec<_>>().join(",");
        table += ",gradient_norm,learning_rate,tokens_per_s,held_out\n";
        for line in &self.lines {
            let Line { step, tokens, loss, parts, gradient_norm, learning_rate, tokens_per_s, held_out } = line;
            let part = |name| parts.iter().find(|(of, _)| of == name).map_or(String::new(), |(_, value)| value.to_string());
            let parts: String = names.iter().map(|name| part(*name) + ",").collect();
            let held_out = held_out.map_or(String::new(), |x| x.to_string());
            writeln!(table, "{step},{tokens},{loss},{parts}{gradient_norm},{learning_rate},{tokens_per_s:.1},{held_out}")
                .expect("a string");
        }
        table
    }

    /// Loss and held-out loss over tokens, as an SVG drawing.
    pub fn curves(&self) -> String {
        let seen = |of: &dyn Fn(&Line) -> Option<f64>| {
            let point = |line: &Line| of(line).filter(|y| y.is_finite()).map(|y| (line.tokens as f64, y));
            self.lines.iter().filter_map(point).collect::<Vec<_>>()
        };
        let series = [("loss", "#4a7fb5", seen(&|line| Some(line.loss))), ("held out", "#c0504d", seen(&|line| line.held_out))];
        let all = || series.iter().flat_map(|(.., points)| points);
        let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
            all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), x| (least.min(x), most.max(x)))
        };
        let ((left, right), (low, high)) = (range(&|p| p.0), range(&|p| p.1));
        if all().next().is_none() {
            return String::new();
        }
        let place = |x: f64, least: f64, most: f64, length: f64| length * (x - least) / (most - least).max(f64::MIN_POSITIVE);
        let mut drawing = format!("<svg viewBox=\"0 0 {} {}\" class=\"curves\">", WIDTH + 2.0 * MARGIN, HEIGHT + 2.0 * MARGIN);
        for (i, (name, colour, points)) in series.iter().enumerate() {
            let at = |(x, y): &(f64, f64)| {
                format!("{:.1},{:.1}", MARGIN + place(*x, left, right, WIDTH), MARGIN + HEIGHT - place(*y, low, high, HEIGHT))
            };
            let path: Vec<String> = points.iter().map(at).collect();
            let label = MARGIN + WIDTH - 70.0;
            write!(
                drawing,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/><text x=\"{label}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
                path.join(" "),
                MARGIN + 14.0 * i as f64
            )
            .expect("a string");
        }
        let text = |x: f64, y: f64, text: String| format!("<text x=\"{x}\" y=\"{y}\">{text}</text>");
        drawing += &text(0.0, MARGIN, format!("{high:.3}"));
        drawing += &text(0.0, MARGIN + HEIGHT, format!("{low:.3}"));
        drawing += &text(MARGIN + WIDTH - 60.0, HEIGHT + 1.8 * MARGIN, format!("{:.2} M tokens", right / 1e6));
        drawing + "</svg>"
    }
}

/// Of the drawing, in its own units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 40.0;
