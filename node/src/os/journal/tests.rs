use super::*;

fn hook(hook: Hook) -> Record {
    Record::Hook { hook, interface: "mesh0".into() }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn records_survive_a_crash_in_order() {
    let dir = dir();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(hook(Hook::DockerUser)).unwrap();
    journal.append(hook(Hook::UfwInput)).unwrap();
    drop(journal);
    let found = Journal::open(dir.path()).unwrap().pending();
    assert_eq!(
        found.iter().map(|r| r.record.clone()).collect::<Vec<_>>(),
        [hook(Hook::DockerUser), hook(Hook::UfwInput)]
    );
}

#[test]
fn an_undone_record_is_no_longer_pending_and_can_be_made_again() {
    let dir = dir();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(hook(Hook::DockerUser)).unwrap();
    journal.append(hook(Hook::DockerUser)).unwrap();
    assert_eq!(journal.pending().len(), 1, "the same change is recorded once");
    journal.append(Record::Undone { index: 0 }).unwrap();
    assert!(journal.pending().is_empty());
    journal.append(hook(Hook::DockerUser)).unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().pending()[0].index, 2);
}

#[test]
fn a_record_torn_at_any_byte_is_skipped_and_the_ones_before_it_are_kept() {
    let dir = dir();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(hook(Hook::DockerUser)).unwrap();
    let whole = fs::read(dir.path().join(FILE_NAME)).unwrap().len();
    journal.append(hook(Hook::UfwForward)).unwrap();
    let bytes = fs::read(dir.path().join(FILE_NAME)).unwrap();
    for cut in whole..bytes.len() - 1 {
        assert_eq!(parse(&bytes[..cut]), [hook(Hook::DockerUser)], "cut at {cut}");
    }
    // Without only its line end the record is whole.
    assert_eq!(parse(&bytes[..bytes.len() - 1]).len(), 2);
    let mut flipped = bytes.clone();
    flipped[whole + 20] ^= 1;
    assert_eq!(parse(&flipped), [hook(Hook::DockerUser)]);
}

#[test]
fn the_file_is_private_and_gone_after_removal() {
    use std::os::unix::fs::PermissionsExt;
    let dir = dir();
    let mut journal = Journal::open(dir.path()).unwrap();
    assert!(!journal.exists(), "opening makes no file");
    journal.append(hook(Hook::DockerUser)).unwrap();
    let path = dir.path().join(FILE_NAME);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    journal.remove().unwrap();
    journal.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_record_after_a_torn_one_is_whole_and_counted_as_it_lies() {
    let dir = dir();
    let path = dir.path().join(FILE_NAME);
    Journal::open(dir.path()).unwrap().append(hook(Hook::DockerUser)).unwrap();
    let torn = [fs::read(&path).unwrap(), b"0123 {\"what\":\"ho".to_vec()].concat();
    fs::write(&path, torn).unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(hook(Hook::UfwInput)).unwrap();
    journal.append(Record::Undone { index: 0 }).unwrap();
    let found = Journal::open(dir.path()).unwrap().pending();
    assert_eq!(found, [Recorded { index: 1, record: hook(Hook::UfwInput) }]);
}
