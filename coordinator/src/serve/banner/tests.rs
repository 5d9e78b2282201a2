use super::*;
use crate::serve::outside;
use insta::assert_snapshot;
use meshd_proto::{CoordinatorKey, MeshPrefixes, VerifyingKey};

fn mesh() -> MeshSettings {
    MeshSettings {
        name: "home".parse().unwrap(),
        domain: "home.internal".parse().unwrap(),
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() },
        map_lease: 1,
        addresses: Vec::new(),
        key: CoordinatorKey::from_bytes([1; 32]),
        signing_key: VerifyingKey::from_bytes([2; 32]),
        next_key: None,
        next_signing_key: None,
        search: Vec::new(),
        split: Vec::new(),
        nameservers: Vec::new(),
        dns_ttl: 30,
    }
}

fn own(fingerprint: &str) -> Certificates {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let own = rustls::sign::CertifiedKey::new(vec![made.cert.der().clone()], key);
    Certificates::new(std::sync::Arc::new(own), fingerprint.to_owned(), crate::certificate::Made::Here)
}

#[test]
fn the_first_start_says_ports_and_the_command_to_join() {
    let (mesh, outside) =
        (mesh(), outside::find(&["vpn.example.com".to_owned()], 443, &mesh().prefixes).unwrap());
    let facts = Facts {
        mesh: &mesh,
        outside: &outside,
        port: 443,
        udp_ports: Some((3478, Some(3479))),
        certificates: &own("AB:CD"),
        proof: None,
    };
    assert_snapshot!(text(&facts, Some("mesh_AQ"), Some("secret")), @r"
    Mesh `home`: home.internal, 100.71.0.0/16, fd7a:1:2::/48
    Reached at vpn.example.com:443

    Open these ports to the internet:
      TCP 443          control channel, API and pages
      UDP 3478, 3479   relay and STUN

    Administer the mesh (one use, one hour):
      https://vpn.example.com:443/welcome/secret
      Certificate, SHA-256: AB:CD

    Join a machine (24 hours, 10 machines):
      sudo meshd up mesh_AQ
    ");
}

#[test]
fn a_private_address_is_named_with_what_to_forward() {
    let mesh = mesh();
    let outside = Outside {
        addresses: vec!["10.0.0.5:443".to_owned()],
        hosts: vec!["10.0.0.5".to_owned()],
        reach: Reach::Private("10.0.0.5".parse().unwrap()),
    };
    let facts = Facts {
        mesh: &mesh,
        outside: &outside,
        port: 443,
        udp_ports: None,
        certificates: &own("AB"),
        proof: None,
    };
    let said = text(&facts, None, None);
    assert!(said.contains("forward TCP 443 to 10.0.0.5 and start it with --public"), "{said}");
    assert!(said.contains("`meshd-coordinator token create` prints the command"), "{said}");
    assert!(said.contains("Administer the mesh: https://10.0.0.5:443/\n"), "{said}");
    assert_eq!(json(&facts)["reachable"], false);
}

#[test]
fn an_outside_address_that_was_found_is_named_with_what_may_be_missing() {
    let (inside, seen) = ("10.0.0.5".parse().unwrap(), "9.9.9.9".parse().unwrap());
    let outside = Outside {
        addresses: vec!["9.9.9.9:443".to_owned(), "10.0.0.5:443".to_owned()],
        hosts: vec!["9.9.9.9".to_owned(), "10.0.0.5".to_owned()],
        reach: Reach::Mapped { own: inside, outside: seen },
    };
    let mesh = mesh();
    let facts = Facts {
        mesh: &mesh,
        outside: &outside,
        port: 443,
        udp_ports: None,
        certificates: &own("AB"),
        proof: None,
    };
    let said = text(&facts, None, None);
    assert!(said.contains("Reached at 9.9.9.9:443, 10.0.0.5:443"), "{said}");
    assert!(said.contains("let TCP 443 in there; behind a router, forward them to 10.0.0.5"), "{said}");
    assert_eq!(json(&facts)["reachable"], false, "nobody has come from outside yet");
}
