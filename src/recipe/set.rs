//! `--set`: `gptq.bits=3` addresses the only stage of that method, `2.gptq.bits=3`
//! the second stage (from 1), `calibration.sequences=64` another section.

use crate::error::{Error, Result};
use toml::{Table, Value};

/// An assignment that fits no key of the recipe.
#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error("expected KEY=VALUE")]
    NoValue,
    #[error("expected a section or a method before the key, such as gptq.bits=3")]
    NoPlace,
    #[error("the recipe has no stages")]
    NoStages,
    #[error("{0} is not a section")]
    NotASection(String),
    #[error("expected a method after the stage's number")]
    NoMethod,
    #[error("there is no stage {number}, only {count}")]
    NoStage { number: usize, count: usize },
    #[error("stage {number} is not {method}")]
    OtherMethod { number: usize, method: String },
    #[error("there is no stage or section {0}")]
    Unknown(String),
    #[error("there are several stages {0}: put a number before it, such as 1.{0}")]
    Several(String),
    #[error("the stage is not a table")]
    NotATable,
}

/// Applies one assignment to a parsed recipe.
pub fn apply(recipe: &mut Table, assignment: &str) -> Result<()> {
    let fail = |error: SetError| Error::Usage(format!("--set {assignment}: {error}"));
    let (path, value) = assignment.split_once('=').ok_or_else(|| fail(SetError::NoValue))?;
    let keys: Vec<&str> = path.trim().split('.').collect();
    let (last, way) = keys.split_last().expect("split gives one part at least");
    let mut table = match way.first() {
        None => return Err(fail(SetError::NoPlace)),
        Some(first) if SECTIONS.contains(first) => recipe,
        Some(first) => {
            let stages = recipe.get_mut("stage").and_then(Value::as_array_mut).ok_or_else(|| fail(SetError::NoStages))?;
            find_stage(stages, first, way.get(1)).map_err(fail)?
        }
    };
    let way = if way[0].parse::<usize>().is_ok() { &way[1..] } else { way };
    for key in way {
        let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().ok_or_else(|| fail(SetError::NotASection((*key).to_owned())))?;
    }
    // Otherwise a key would be there under both of its names.
    for (old, new) in RENAMED {
        if *last == old || *last == new {
            table.remove(old);
            table.remove(new);
        }
    }
    table.insert((*last).to_owned(), parse_value(value.trim()));
    Ok(())
}

/// Keys that had another name: the old one, which recipes may still use, and the new one.
pub(super) const RENAMED: [(&str, &str); 5] =
    [("last", "min_lr_ratio"), ("soft", "kd_weight"), ("hard", "ce_weight"), ("average", "ema_decay"), ("trains", "trainable")];

const SECTIONS: [&str; 4] = ["calibration", "evaluate", "gate", "output"];

fn find_stage<'a>(stages: &'a mut [Value], first: &str, second: Option<&&str>) -> std::result::Result<&'a mut Table, SetError> {
    let count = stages.len();
    let at = match first.parse::<usize>() {
        Ok(number) => {
            let method = second.ok_or(SetError::NoMethod)?;
            let stage = number.checked_sub(1).and_then(|i| stages.get(i)).ok_or(SetError::NoStage { number, count })?;
            stage.get(*method).ok_or_else(|| SetError::OtherMethod { number, method: (*method).to_owned() })?;
            number - 1
        }
        Err(_) => {
            let mut of_method = (0..count).filter(|&i| stages[i].get(first).is_some());
            let at = of_method.next().ok_or_else(|| SetError::Unknown(first.to_owned()))?;
            if of_method.next().is_some() {
                return Err(SetError::Several(first.to_owned()));
            }
            at
        }
    };
    stages[at].as_table_mut().ok_or(SetError::NotATable)
}

/// As TOML where it is that, and as a text otherwise.
fn parse_value(text: &str) -> Value {
    let document = format!("value = {text}");
    match toml::from_str::<Table>(&document) {
        Ok(mut table) if table.len() == 1 => table.remove("value").expect("the only key"),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Table {
        toml::from_str("[[stage]]\n[stage.rtn]\nbits = 8\n[[stage]]\n[stage.gptq]\nbits = 4\n[[stage]]\n[stage.gptq]\nbits = 2\n").unwrap()
    }

    #[test]
    fn addresses_stages_and_sections() {
        let mut table = recipe();
        apply(&mut table, "rtn.bits=3").unwrap();
        apply(&mut table, "3.gptq.embeddings.bits = 4").unwrap();
        apply(&mut table, "calibration.text=some file.txt").unwrap();
        assert_eq!(table["stage"][0]["rtn"]["bits"].as_integer(), Some(3));
        assert_eq!(table["stage"][2]["gptq"]["embeddings"]["bits"].as_integer(), Some(4));
        assert_eq!(table["calibration"]["text"].as_str(), Some("some file.txt"));
    }

    #[test]
    fn refuses_what_is_ambiguous_or_absent() {
        for wrong in ["gptq.bits=3", "awq.bits=4", "4.gptq.bits=3", "1.gptq.bits=3", "bits=3", "rtn.bits"] {
            assert!(apply(&mut recipe(), wrong).is_err(), "{wrong}");
        }
    }
}
