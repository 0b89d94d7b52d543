//! Processes that say as JSON what they have done: in their last line, or in all.

use serde_json::Value;
use std::process::Command;

pub fn said(mut run: Command) -> Value {
    let done =
        run.output().unwrap_or_else(|e| panic!("{run:?}: {e}; `make .venv-peers/ready .venv-compat/ready` makes Python's environments"));
    assert!(done.status.success(), "{run:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap_or_else(|_| serde_json::from_str(&text).unwrap())
}

/// A list of numbers in what was said.
#[allow(dead_code)] // not every benchmark asks
pub fn numbers(said: &Value, name: &str) -> Vec<f64> {
    said[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}
