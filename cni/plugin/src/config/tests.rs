use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse(value: &Value, command: Command) -> Result<Config, Failure> {
    Config::parse(Input::parse(value.to_string().as_bytes())?, command)
}

fn good() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pods", "type": "meshd-cni", "ranges": ["10.1.0.0/24"] })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = good();
    config[key] = value;
    config
}

#[test]
fn a_good_configuration_has_sensible_defaults() {
    let config = parse(&good(), Command::Add).expect("good");
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/meshd/cni"));
    let network = config.pod_network().expect("good");
    assert_eq!((network.mtu, network.dns), (1380, None));
    assert!(config.prev_result().expect("none is fine").is_none());
}

#[test]
fn every_wrong_value_is_named_with_its_code() {
    for (key, value, code) in [
        ("cniVersion", json!("0.3.1"), Code::IncompatibleVersion),
        ("cniVersion", json!(1), Code::Decode),
        ("name", json!(null), Code::InvalidConfiguration),
        ("name", json!("../up"), Code::InvalidConfiguration),
        ("ranges", json!([]), Code::InvalidConfiguration),
        ("ranges", json!("10.1.0.0/24"), Code::InvalidConfiguration),
        ("ranges", json!(["10.1.0.1/24"]), Code::InvalidConfiguration),
        ("mtu", json!(100), Code::InvalidConfiguration),
        ("mtu", json!(-1), Code::InvalidConfiguration),
        ("mtu", json!(70000), Code::InvalidConfiguration),
        ("dataDir", json!("var"), Code::InvalidConfiguration),
        ("dataDir", json!("/var/../etc"), Code::InvalidConfiguration),
        ("dns", json!({ "nameservers": ["here"] }), Code::InvalidConfiguration),
        ("dns", json!({ "nameserver": [] }), Code::InvalidConfiguration),
        ("prevResult", json!([]), Code::InvalidConfiguration),
        ("ipam", json!({ "type": "host-local" }), Code::UnsupportedField),
        ("rangs", json!(["10.1.0.0/24"]), Code::UnsupportedField),
    ] {
        let config = with(key, value.clone());
        let all = parse(&config, Command::Add)
            .and_then(|c| c.pod_network().and_then(|_| c.prev_result()).map(|_| ()));
        let error = all.expect_err(&config.to_string());
        assert_eq!(error.code, code, "{config}: {error:?}");
        assert!(format!("{} {}", error.msg, error.details).contains(key), "{error:?}");
    }
    let six = with("ranges", json!(["fd00::/64"]));
    let mut small = six.clone();
    small["mtu"] = json!(1279);
    assert!(parse(&small, Command::Add).expect("parsed later").pod_network().is_err());
}

#[test]
fn an_unsupported_field_is_shown_with_its_key_and_value() {
    let error = parse(&with("ipMasq", json!(true)), Command::Add).expect_err("not known");
    assert!(error.details.starts_with("ipMasq: true"), "{}", error.details);
}

#[test]
fn del_and_gc_work_with_a_configuration_that_add_refuses() {
    for command in [Command::Del, Command::Gc] {
        assert!(parse(&with("ipam", json!({})), command).is_ok());
        assert!(parse(&with("ranges", json!(["nonsense"])), command).is_ok());
    }
}

#[test]
fn status_and_gc_belong_to_1_1_only() {
    for version in ["0.4.0", "1.0.0"] {
        let config = with("cniVersion", json!(version));
        assert!(parse(&config, Command::Check).is_ok());
        for command in [Command::Status, Command::Gc] {
            assert_eq!(parse(&config, command).expect_err("later").code, Code::IncompatibleVersion);
        }
    }
}

#[test]
fn gc_without_a_list_removes_nothing() {
    let list = |config: &Value| parse(config, Command::Gc).expect("good").valid_attachments();
    assert_eq!(list(&good()).expect_err("no list").code, Code::InvalidConfiguration);
    const KEY: &str = "cni.dev/valid-attachments";
    assert_eq!(list(&with(KEY, json!([]))).expect("an empty list").len(), 0);
    assert_eq!(list(&with(KEY, json!(null))).expect("Go's empty list").len(), 0);
    let one = json!([{ "containerID": "a", "ifname": "eth0" }]);
    assert_eq!(list(&with(KEY, one)).expect("one").len(), 1);
    assert!(list(&with(KEY, json!([{ "containerID": "/", "ifname": "eth0" }]))).is_err());
}

#[test]
fn noise_depth_and_length_are_refused() {
    let code = |bytes: &[u8]| Input::parse(bytes).map(|_| ()).expect_err("noise").code;
    assert_eq!(code(b""), Code::Decode);
    assert_eq!(code(b"[]"), Code::Decode);
    assert_eq!(code("[".repeat(100_000).as_bytes()), Code::Decode);
    assert_eq!(code(&vec![b' '; MAX_INPUT + 1]), Code::Decode);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9./:_\\-]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let object = prop::collection::btree_map("[a-zA-Z]{1,10}", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|o| Value::Object(o.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands under a key: an answer with a code, a bounded text and no panic.
    #[test]
    fn any_value_under_any_key_is_taken_or_named(
        key in prop::sample::select(&[
            "cniVersion", "name", "ranges", "mtu", "dataDir", "dns", "prevResult", "cni.dev/valid-attachments",
        ][..]),
        value in any_json(),
    ) {
        let config = with(key, value);
        let read = |command| -> Result<(), Failure> {
            let config = parse(&config, command)?;
            config.pod_network()?;
            config.prev_result()?;
            config.valid_attachments().map(|_| ())
        };
        for command in [Command::Add, Command::Del, Command::Gc, Command::Check] {
            if let Err(failure) = read(command) {
                prop_assert!(failure.msg.len() < 200 && failure.details.len() < 2000);
            }
        }
    }

    #[test]
    fn any_bytes_are_an_object_or_a_decode_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(failure) = Input::parse(&bytes) {
            prop_assert_eq!(failure.code, Code::Decode);
        }
    }
}
