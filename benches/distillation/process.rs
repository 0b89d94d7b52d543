//! Processes that say what they have done as JSON in their last line.

use serde_json::Value;
use std::process::Command;

pub fn said(mut run: Command) -> Value {
    let done = run.output().unwrap_or_else(|e| panic!("{run:?}: {e}; `make .venv-compat/ready` makes Python's environment"));
    assert!(done.status.success(), "{run:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// A list of numbers in what was said.
pub fn numbers(said: &Value, name: &str) -> Vec<f64> {
    said[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}
