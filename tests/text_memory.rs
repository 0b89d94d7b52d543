//! The memory that a part of a long text takes. Alone in its file: it is measured of this
//! process.

use std::io::Write;
use std::path::Path;
use thimble::memory::AnonymousPeak;
use thimble::progress::Silent;
use thimble::text::{Text, Tokenizer};

/// Three windows of a text of 64 MB need what lies at its beginning. Encoded at once, the text
/// takes some 5 GB.
#[test]
fn memory_follows_what_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paragraph = std::fs::read_to_string(root.join("assets/demo/held-out.txt")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.txt");
    let mut file = std::fs::File::create(&path).unwrap();
    (0..(64 << 20) / paragraph.len()).for_each(|_| file.write_all(paragraph.as_bytes()).unwrap());
    drop(file);
    let tokenizer = Tokenizer::find(&root.join("assets/demo/model")).unwrap().unwrap();
    let expected = tokenizer.encode(&paragraph.repeat(8)).unwrap();

    let before = {
        let memory = AnonymousPeak::watch();
        std::thread::sleep(std::time::Duration::from_millis(50));
        memory.bytes()
    };
    let memory = AnonymousPeak::watch();
    let ids = Text::open(&path).unwrap().first_ids(&tokenizer, Some(3 * 2048), &Silent).unwrap();
    let took = memory.bytes().saturating_sub(before);
    assert_eq!(ids.len(), 3 * 2048);
    assert!(expected.len() > 3 * 2048 && expected.starts_with(&ids));
    assert!(before > 0 && took < 80 << 20, "{took} bytes above the {before} before");
}
