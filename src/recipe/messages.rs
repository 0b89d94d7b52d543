//! Errors in a recipe's values, in words of TOML instead of serde's Rust types.

use super::set::RENAMED;

/// The message of an error of serde's.
pub(super) fn plain(message: &str) -> String {
    let mismatch = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    if let Some((found, wanted)) = mismatch.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, found {}", expected(wanted), self::found(found));
    }
    if let Some((length, wanted)) = message.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected ")) {
        return format!("expected {}, found {length} entries", expected(wanted));
    }
    if let Some((name, known)) = message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected ")) {
        // The name of a stage's method is a variant to serde.
        return match known.contains("`rtn`, `gptq`") {
            true => format!("there is no method {name}; there are {}", known.trim_start_matches("one of ")),
            false => format!("unknown value {name}, expected {known}"),
        };
    }
    // A recipe may have both names of a renamed key; serde tells the new one alone.
    if let Some(name) = message.strip_prefix("duplicate field ")
        && let Some((old, new)) = RENAMED.iter().find(|(_, new)| name.trim_matches('`') == *new)
    {
        return format!("{message}: `{old}` is the old name of `{new}`; keep one of them");
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return format!("{name} is missing");
    }
    // The parser's words where a stage has two methods or none.
    if message.starts_with("wanted exactly 1 element") {
        return "a [[stage]] holds exactly one method, such as [stage.gptq]".into();
    }
    // Windows paths in double quotes.
    if message.contains("unicode value") || message.contains("escaped value") {
        let hint = "in double quotes a backslash begins an escape: put a path in single quotes, such as 'C:\\texts\\a.txt'";
        return format!("{message}; {hint}");
    }
    message.to_owned()
}

/// A type, or the name of what a type is made from.
fn expected(name: &str) -> String {
    match name {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, 0 or more".into(),
        "isize" | "i64" | "i32" | "i16" | "i8" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" => "a text in quotes".into(),
        "a sequence" => "a list, such as [1, 2]".into(),
        "a map" => "a table of keys and values".into(),
        _ if name.starts_with("struct ") => "a table of keys and values".into(),
        _ => match name.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length} entries"),
            None => name.into(),
        },
    }
}

/// A value that was found.
fn found(value: &str) -> String {
    let value = value.trim_end_matches(" as i128").trim_end_matches(" as u128");
    let kinds = [("string ", "the text "), ("integer ", ""), ("floating point ", ""), ("boolean ", "")];
    match kinds.iter().find_map(|(kind, shown)| Some((value.strip_prefix(kind)?, shown))) {
        Some((value, shown)) => format!("{shown}{}", value.trim_matches('`')),
        None if value == "sequence" => "a list".into(),
        None if value == "map" => "a table".into(),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RawRecipe;
    use std::path::Path;

    /// Lines of a recipe, what is said of them, and in which line.
    #[test]
    fn values_of_another_kind_are_told_in_words() {
        for (text, line, says) in [
            ("[[stage]]\n[stage.distil]\nkd_weight = 1.0\nsoft = 0.5", 2, "`soft` is the old name of `kd_weight`; keep one of them"),
            ("[[stage]]\n[stage.gptq]\nbits = \"x\"", 3, "expected a whole number, 0 or more, found the text \"x\""),
            ("[[stage]]\n[stage.gptq]\nbits = -4", 3, "expected a whole number, 0 or more, found -4"),
            ("[[stage]]\n[stage.gptq]\nbits = 4.5", 3, "expected a whole number, 0 or more, found 4.5"),
            ("[[stage]]\n[stage.gptq]\n\nbits = true", 4, "expected a whole number, 0 or more, found true"),
            ("[[stage]]\n[stage.gptq]\nbits = [4]", 3, "expected a whole number, 0 or more, found a list"),
            ("[[stage]]\n[stage.gptq]\nsymmetric = \"yes\"", 3, "expected true or false, found the text \"yes\""),
            ("[[stage]]\n[stage.gptq]\ndamp_percent = \"1 %\"", 3, "expected a number, found the text \"1 %\""),
            ("[[stage]]\n[stage.gptq]\nskip = \"head\"", 3, "expected a list, such as [1, 2], found the text \"head\""),
            ("[[stage]]\n[stage.gptq]\nembeddings = 8", 3, "expected a table of keys and values, found 8"),
            ("[calibration]\ntext = 3", 2, "expected a text in quotes, found 3"),
            ("[[stage]]\n[stage.gptq]\nprecision = \"f16\"", 3, "unknown value `f16`, expected `f32` or `f64`"),
            ("[[stage]]\n[stage.gtpq]\nbits = 4", 2, "there is no method `gtpq`; there are `rtn`, `gptq`"),
            ("[[stage]]\n[stage.gptq]\n[stage.rtn]", 1, "a [[stage]] holds exactly one method, such as [stage.gptq]"),
            ("[[stage]]\n[stage.distil.training]\nbetas = [0.9]", 3, "expected a list of 2 entries, found 1 entries"),
        ] {
            let error = RawRecipe::parse(text, Path::new("r.toml"), &[]).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {says:?} is not in {error}");
            assert!(error.contains(&format!("line {line},")), "{text:?}: not line {line} in {error}");
            for jargon in ["usize", "f64,", "invalid type", "variant", "sequence", "boolean"] {
                assert!(!error.contains(jargon), "{text:?}: {jargon} in {error}");
            }
        }
        let sets = ["gptq.bits=four".to_owned()];
        let error = RawRecipe::parse("[[stage]]\n[stage.gptq]", Path::new("r.toml"), &sets).unwrap_err().to_string();
        assert_eq!(error, "--set gptq.bits=four: expected a whole number, 0 or more, found the text \"four\"");
    }
}
