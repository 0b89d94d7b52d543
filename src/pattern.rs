//! Names with stars in them: of parameters in recipes, of files in folders.

/// Whether a name fits a pattern in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(start).and_then(|name| name.strip_suffix(end)) else { return false };
    // The first place of each piece leaves most for those behind it.
    middle.split('*').all(|piece| match left.find(piece) {
        Some(at) => {
            left = &left[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_text() {
        assert!(matches("blocks.*.ffn.*", "blocks.11.ffn.down"));
        assert!(matches("*", "head") && matches("head*", "head"));
        assert!(!matches("blocks.1.*", "blocks.11.ffn.down") && !matches("head", "heads"));
        assert!(matches("b*.*.f*n", "blocks.11.ffn.down") && matches("**", "") && matches("a*a", "aa") && !matches("a*a", "a"));
        assert!(!matches("*a*b*", "ba") && matches("*a*b*", "aab"));
        // In time that does not grow with the ways to share the text out.
        assert!(!matches(&format!("{}x", "*o".repeat(40)), &"o".repeat(60)));
    }
}
