use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|e| panic!("{e:?}"))
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn the_default_policy_loads_without_a_remark() {
    let default = policy(DEFAULT_POLICY);
    assert!(default.warnings().is_empty());
    assert_eq!((default.rule_count(), default.text()), (1, DEFAULT_POLICY));
}

#[test]
fn auto_approvers_cover_subnets_of_their_prefixes_and_never_default_routes() {
    let p = policy(
        r#"{
            "groups": {"group:net": ["alice"]},
            "autoApprovers": {
                "routes": {"10.0.0.0/8": ["tag:router", "group:net"], "0.0.0.0/0": ["tag:any"]},
                "exitNode": ["tag:exit"],
            },
        }"#,
    );
    let router = ClassKey::tagged([tag("tag:router")]);
    assert!(p.auto_approves(prefix("10.2.0.0/16"), &router));
    assert!(p.auto_approves(prefix("10.0.0.0/8"), &ClassKey::user("alice")));
    assert!(!p.auto_approves(prefix("10.2.0.0/16"), &ClassKey::user("bob")));
    assert!(!p.auto_approves(prefix("8.0.0.0/6"), &router), "a wider prefix than the one named");
    assert!(!p.auto_approves(prefix("11.0.0.0/8"), &router) && !p.auto_approves(prefix("fd00::/8"), &router));
    let any = ClassKey::tagged([tag("tag:any")]);
    assert!(p.auto_approves(prefix("172.16.0.0/12"), &any) && !p.auto_approves(Prefix::DEFAULT_V4, &any));
    assert!(p.auto_approves_exit(&ClassKey::tagged([tag("tag:exit")])) && !p.auto_approves_exit(&any));
    assert!(!policy("{}").auto_approves(prefix("10.0.0.0/8"), &router));
}

#[test]
fn tags_are_given_by_their_owners_only() {
    let p = policy(
        r#"{
            "groups": {"group:ops": ["alice@example.com", "carol@"]},
            "tagOwners": {
                "tag:web": ["group:ops", "tag:ci"],
                "tag:ci": ["autogroup:admin"],
                "tag:lab": ["autogroup:member"],
            },
        }"#,
    );
    assert!(p.may_own_tag("alice@example.com", &tag("tag:web")) && p.may_own_tag("carol", &tag("tag:web")));
    assert!(!p.may_own_tag("bob", &tag("tag:web")) && !p.may_own_tag("alice@example.com", &tag("tag:ci")));
    assert!(p.may_own_tag("bob", &tag("tag:lab")) && !p.may_own_tag("bob", &tag("tag:unknown")));
    assert!(p.class_may_own_tag(&ClassKey::tagged([tag("tag:ci")]), &tag("tag:web")));
    let tagged = ClassKey { owner: Some("alice@example.com".into()), tags: vec![tag("tag:x")] };
    assert!(!p.class_may_own_tag(&tagged, &tag("tag:web")), "a tagged node does not speak for its owner");
    assert_eq!(p.groups_of("carol").collect::<Vec<_>>(), ["ops"]);
    assert_eq!(p.tags().count(), 3);
}

#[test]
fn nothing_is_exposed_unless_an_entry_names_source_name_port_and_exit() {
    let p = policy(
        r#"{"expose": [{
            "src": ["tag:k8s"], "names": ["*.apps.example.com", "example.com"], "ports": ["tcp:443", "udp:443"],
            "on": ["tag:exit"],
        }]}"#,
    );
    let (k8s, exit) = (ClassKey::tagged([tag("tag:k8s")]), ClassKey::tagged([tag("tag:exit")]));
    let may = |name: &str, protocol, port| p.may_expose(&k8s, &name.parse().unwrap(), protocol, port, &exit);
    assert!(
        may("a.apps.example.com", 6, 443)
            && may("b.a.apps.example.com", 17, 443)
            && may("example.com", 6, 443)
    );
    let name: DnsName = "example.com".parse().unwrap();
    assert_eq!(p.exposable_ports(&k8s, &name, 17, &exit).collect::<Vec<_>>(), [443..=443]);
    assert_eq!(p.exposable_ports(&exit, &name, 17, &exit).count(), 0);
    assert!(!may("apps.example.com", 6, 443) && !may("evilapps.example.com", 6, 443));
    assert!(!may("example.com", 6, 80) && !may("www.example.com", 6, 443));
    assert!(!p.may_expose(&exit, &"example.com".parse().unwrap(), 6, 443, &exit));
    assert!(!p.may_expose(&k8s, &"example.com".parse().unwrap(), 6, 443, &k8s));
    assert!(policy(DEFAULT_POLICY).exposes().is_empty());
}
