//! One page without scripts: the comparison, and the error of every layer.

use super::CompressReport;
use crate::model::ModelSpec;
use crate::recipe::Recipe;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.bar{background:#4a7fb5;height:.8em;min-width:1px}.wide{width:20em}\
.curves{width:100%;font-size:11px}\
pre{background:#f4f4f4;padding:1em;overflow:auto}";

/// HTML.
pub fn page(report: &CompressReport, recipe: &Recipe, spec: &ModelSpec) -> String {
    let comparison: String = report.comparison().iter().map(|row| tr(&row.clone().map(|cell| escape(&cell)))).collect();
    let gate = report.gate.map_or(String::new(), |g| format!("<p>Quality gate: <b>{}</b></p>", format!("{g:?}").to_lowercase()));
    let stages: String = report.stages.iter().map(stage).collect();
    let recipe = escape(&serde_json::to_string_pretty(recipe).expect("a recipe is JSON"));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>thimble: {family}</title><style>{STYLE}</style>\
         <h1>{family}, {parameters} parameters</h1>{gate}\
         <table><tr><th></th><th>before</th><th>after</th></tr>{comparison}</table>\
         <p>{seconds:.1} s, peak memory {memory:.1} MB, {tokens} tokens scored.</p>{stages}<h2>Recipe</h2><pre>{recipe}</pre></html>\n",
        family = escape(&spec.family),
        parameters = report.footprint.parameters,
        seconds = report.seconds,
        memory = report.peak_memory_bytes as f64 / 1e6,
        tokens = report.after.tokens,
    )
}

fn stage(stage: &super::StageReport) -> String {
    let training: String = stage.training.iter().map(training).collect();
    let remarks: String = stage.remarks.iter().map(|remark| format!("<p>{}</p>", escape(remark))).collect();
    if stage.layers.is_empty() {
        return format!("<h2>{} ({:.1} s)</h2>{remarks}{training}", escape(&stage.method), stage.seconds);
    }
    let greatest = stage.layers.iter().map(|l| l.relative_error).fold(f64::MIN_POSITIVE, f64::max);
    let rows: String = stage
        .layers
        .iter()
        .map(|l| {
            let bar = format!("<div class=\"bar\" style=\"width:{:.1}%\"></div>", 100.0 * l.relative_error / greatest);
            let name = std::iter::once(escape(&l.name)).chain(l.said().map(|r| format!("<br><small>{}</small>", escape(&r)))).collect();
            tr(&[name, format!("{:.3}", l.bits), format!("{:.5}", l.relative_error), bar])
        })
        .collect();
    format!(
        "<h2>{} ({:.1} s)</h2>{remarks}<table><tr><th>layer</th><th>bits</th><th>relative error</th><th class=\"wide\"></th></tr>{rows}</table>",
        escape(&stage.method),
        stage.seconds
    )
}

/// How a training went.
fn training(training: &super::TrainingReport) -> String {
    let last = training.lines.last().map_or(String::new(), |line| format!("{} steps, {} tokens", line.step, line.tokens));
    format!("<h3>{}</h3><p>{last}; {}</p>{}", escape(&training.name), training.end, training.curves())
}

fn tr(cells: &[String]) -> String {
    format!("<tr>{}</tr>", cells.iter().map(|c| format!("<td>{c}</td>")).collect::<String>())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
