use super::*;
use std::os::unix::fs::PermissionsExt;

fn fixture() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("meshd")).unwrap();
    (dir, state)
}

fn identity() -> io::Result<Identity> {
    Ok(Identity { machine: MachineSecret::from_bytes([1; 32]), node: NodeSecret::from_bytes([2; 32]) })
}

#[test]
fn keys_are_made_once_and_only_the_owner_may_read_them() {
    let (_keep, state) = fixture();
    let first = state.identity(identity).unwrap();
    let again = state.identity(|| panic!("the keys are there already")).unwrap();
    assert_eq!(first.node, again.node);
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(state.path()), mode(&state.path().join("identity"))), (0o700, 0o600));
}

#[test]
fn a_map_survives_the_disk_and_a_damaged_one_counts_as_none() {
    let (_keep, state) = fixture();
    assert!(state.map().is_none());
    let mut map = NetworkMap::empty(NetworkId::from_bytes([9; 16]));
    map.version = Version(7);
    map.upsert(Entry::FilterPresent);
    state.set_map(&map, UnixSeconds(55)).unwrap();
    assert_eq!(state.map(), Some((map, UnixSeconds(55))));
    let path = state.path().join("map");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    assert!(state.map().is_none());
}

#[test]
fn settings_with_an_unknown_key_are_refused_with_the_file_named() {
    let (_keep, state) = fixture();
    assert_eq!(state.intent().unwrap(), Intent::default());
    fs::write(state.path().join("settings.json"), r#"{"up":true,"typo":1}"#).unwrap();
    let message = state.intent().unwrap_err().to_string();
    assert!(message.contains("settings.json") && message.contains("typo"), "{message}");
}

#[test]
fn membership_and_intent_come_back_as_stored_and_forgetting_removes_the_keys() {
    let (_keep, state) = fixture();
    let membership = Membership {
        network: NetworkId::from_bytes([3; 16]),
        coordinator_key: CoordinatorKey::from_bytes([4; 32]),
        signing_key: VerifyingKey::from_bytes([5; 32]),
        addresses: vec!["vps.example:443".into()],
    };
    state.set_membership(&membership).unwrap();
    let intent = Intent { up: true, udp_port: 41820, settings: Settings::default() };
    state.set_intent(&intent).unwrap();
    state.identity(identity).unwrap();
    assert_eq!(state.membership().unwrap().unwrap(), membership);
    assert_eq!(state.intent().unwrap(), intent);
    state.forget().unwrap();
    assert!(state.membership().unwrap().is_none() && !state.path().join("identity").exists());
    assert_eq!(state.intent().unwrap(), intent, "what the user chose stays");
}

#[test]
fn the_token_of_an_unfinished_join_is_private_kept_and_forgotten() {
    let (_keep, state) = fixture();
    assert_eq!(state.joining(), None);
    let token = JoinToken::new(
        vec!["192.0.2.1:443".to_owned()],
        NetworkId::from_bytes([9; 16]),
        meshd_proto::token::KeysHash::from_bytes([3; 32]),
        meshd_proto::token::TokenSecret::from_bytes([4; 16]),
    )
    .unwrap();
    state.set_joining(&token).unwrap();
    assert_eq!(state.joining(), Some(token.clone()));
    let path = state.path().join(JOINING);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    state.forget_joining().unwrap();
    state.forget_joining().unwrap();
    assert!(state.joining().is_none() && !path.exists());
    state.set_joining(&token).unwrap();
    state.forget().unwrap();
    assert!(!path.exists(), "who leaves keeps no secret");
    fs::write(&path, "mesh_something").unwrap();
    assert_eq!(state.joining(), None, "a damaged one is none");
}
