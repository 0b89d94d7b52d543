//! Tensors of a checkpoint that a model does not use, in a few words.

use std::collections::BTreeMap;

/// Groups that are named at most.
const GROUPS: usize = 4;

/// Names in at most [`GROUPS`] groups: `vision_tower.encoder.layers.* (600)`.
pub fn grouped(names: &[&str]) -> String {
    let patterns: Vec<Vec<&str>> = names.iter().map(|name| name.split('.').map(numberless).collect()).collect();
    let deepest = patterns.iter().map(Vec::len).max().unwrap_or(0);
    let mut groups = (1..=deepest).rev().map(|depth| count(&patterns, depth)).find(|groups| groups.len() <= GROUPS);
    let groups = groups.get_or_insert_with(|| count(&patterns, 1));
    let mut all: Vec<(&String, &usize)> = groups.iter().collect();
    // The largest first.
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let behind: usize = all.iter().skip(GROUPS).map(|(_, count)| **count).sum();
    let mut shown: Vec<String> = all.iter().take(GROUPS).map(|(group, count)| of_group(group, **count)).collect();
    if behind > 0 {
        shown.push(format!("and {behind} others"));
    }
    shown.join(", ")
}

fn of_group(group: &str, count: usize) -> String {
    if count == 1 { group.to_owned() } else { format!("{group} ({count})") }
}

/// Number of names per prefix of `depth` parts.
fn count(patterns: &[Vec<&str>], depth: usize) -> BTreeMap<String, usize> {
    let mut groups = BTreeMap::new();
    for pattern in patterns {
        let more = if pattern.len() > depth { ".…" } else { "" };
        *groups.entry(format!("{}{more}", pattern[..pattern.len().min(depth)].join("."))).or_insert(0) += 1;
    }
    groups
}

fn numberless(part: &str) -> &str {
    if part.bytes().all(|b| b.is_ascii_digit()) { "*" } else { part }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn hundreds_of_names_are_a_few_groups() {
        let tower: Vec<String> = (0..600).map(|i| format!("vision_tower.encoder.layers.{}.part{}.weight", i / 6, i % 6)).collect();
        let mut names: Vec<&str> = tower.iter().map(String::as_str).collect();
        assert_eq!(grouped(&names), "vision_tower.encoder.layers.*.… (600)");
        names.push("model.layers.0.mlp.gate.bias");
        assert_eq!(grouped(&names), "vision_tower.encoder.layers.*.… (600), model.layers.*.mlp.…");
        assert_eq!(grouped(&["model.layers.0.q.bias", "model.layers.1.q.bias"]), "model.layers.*.q.bias (2)");
        assert_eq!(grouped(&["score.weight"]), "score.weight");
        let many: Vec<String> = (0..30).map(|i| format!("tower{}.weight", i / 2)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(grouped(&many), "tower0.… (2), tower1.… (2), tower10.… (2), tower11.… (2), and 22 others");
    }
}
