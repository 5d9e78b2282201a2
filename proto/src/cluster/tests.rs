use super::*;

fn claim() -> ServiceClaim {
    serde_json::from_value(serde_json::json!({
        "namespace": "default", "name": "web", "addresses": ["10.98.0.7", "fd98::7"],
        "ports": [{"protocol": "tcp", "port": 80,
            "owners": [{"node": 3, "endpoints": ["10.42.0.5:8080", "[fd42::5]:8080"]}]}],
    }))
    .unwrap()
}

#[test]
fn a_claim_survives_json_and_unknown_keys_are_refused() {
    let text = serde_json::to_string(&claim()).unwrap();
    assert_eq!(serde_json::from_str::<ServiceClaim>(&text).unwrap(), claim());
    assert!(serde_json::from_str::<ServiceClaim>(&text.replacen('{', "{\"more\":1,", 1)).is_err());
    claim().check().unwrap();
}

#[test]
fn an_endpoint_that_leads_nowhere_or_has_another_family_is_refused() {
    for endpoint in ["127.0.0.1:1", "169.254.169.254:80", "224.0.0.1:1", "0.0.0.0:1", "10.0.0.1:0", "[::1]:1"]
    {
        let mut bad = claim();
        bad.ports[0].owners[0].endpoints = vec![endpoint.parse().unwrap()];
        assert!(matches!(bad.check(), Err(ClaimError::Endpoint(..))), "{endpoint}");
    }
    let mut bad = claim();
    bad.addresses.pop();
    assert!(bad.check().unwrap_err().to_string().contains("no address has its family"));
}

#[test]
fn what_is_there_twice_missing_or_too_much_is_refused() {
    let cases: [fn(&mut ServiceClaim); 6] = [
        |c| c.addresses.clear(),
        |c| c.ports.clear(),
        |c| c.ports.push(c.ports[0].clone()),
        |c| c.addresses.push(c.addresses[0]),
        |c| c.ports[0].port = 0,
        |c| c.addresses = (0..9).map(|i| IpAddr::from([10, 0, 0, i])).collect(),
    ];
    for (i, spoil) in cases.iter().enumerate() {
        let mut bad = claim();
        spoil(&mut bad);
        assert!(bad.check().is_err(), "case {i}");
    }
}

#[test]
fn a_range_reads_and_writes_all_three_forms() {
    for text in ["10.98.0.0/24", "192.168.0.50-192.168.0.99", "10.0.0.7", "fd98::/112", "fd98::1-fd98::9"] {
        let range: AddressRange = text.parse().unwrap();
        assert_eq!(range.to_string(), text);
    }
    let lan: AddressRange = "192.168.0.50-192.168.0.99".parse().unwrap();
    assert_eq!((lan.count(), lan.addresses().count()), (50, 50));
    assert!(lan.contains("192.168.0.99".parse().unwrap()) && !lan.contains("192.168.0.100".parse().unwrap()));
    assert_eq!("::/0".parse::<AddressRange>().unwrap().count(), u64::MAX);
    for bad in ["", "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.1/24", "10.0.0.0/33", "x-y"] {
        assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
    }
}

#[test]
fn ranges_know_what_they_share() {
    let range = |t: &str| t.parse::<AddressRange>().unwrap();
    assert!(range("10.0.0.0/24").covers(&range("10.0.0.5-10.0.0.9")));
    assert!(range("10.0.0.0/24").overlaps(&range("10.0.0.255-10.0.1.3")));
    assert!(!range("10.0.0.0/24").covers(&range("10.0.0.255-10.0.1.3")));
    assert!(!range("10.0.0.0/24").overlaps(&range("10.0.1.0/24")));
    assert!(!range("::/0").overlaps(&range("10.0.1.0/24")));
}
