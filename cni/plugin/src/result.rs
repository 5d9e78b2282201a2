//! Results of the specification (section "Result Types"): what `ADD` prints, and `prevResult`.

use crate::config::Version;
use crate::failure::{Code, Failure};
use crate::request::InterfaceName;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Most interfaces, addresses or routes in a `prevResult`.
const MAX_ENTRIES: usize = 256;

/// What a plugin before this one, or an earlier `ADD`, has printed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PrevResult {
    object: Map<String, Value>,
    pub(crate) interfaces: Vec<PrevInterface>,
    pub(crate) ips: Vec<PrevIp>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct PrevInterface {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) mac: String,
    #[serde(default)]
    pub(crate) sandbox: String,
    pub(crate) mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct PrevIp {
    pub(crate) address: IpNet,
    pub(crate) interface: Option<usize>,
}

/// What `ADD` has set up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attached {
    pub(crate) host_name: String,
    pub(crate) host_mac: String,
    pub(crate) pod_mac: String,
    pub(crate) mtu: u32,
    /// Each with its gateway.
    pub(crate) addresses: Vec<(IpAddr, IpAddr)>,
}

impl PrevResult {
    /// # Errors
    /// Why this is no result.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(object) = value else { return Err("it is not an object".to_owned()) };
        list::<Value>(object, "routes")?;
        Ok(Self {
            interfaces: list(object, "interfaces")?,
            ips: list(object, "ips")?,
            object: object.clone(),
        })
    }

    /// The interface inside the pod, with its place in the list.
    pub(crate) fn in_pod(&self, name: &InterfaceName) -> Option<(usize, &PrevInterface)> {
        let all = self.interfaces.iter().enumerate();
        all.into_iter().find(|(_, i)| i.name == name.as_str() && !i.sandbox.is_empty())
    }
}

fn list<T: serde::de::DeserializeOwned>(object: &Map<String, Value>, key: &str) -> Result<Vec<T>, String> {
    let Some(value) = object.get(key).filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
    let length = value.as_array().map_or(0, Vec::len);
    if length > MAX_ENTRIES {
        return Err(format!("{key} has more than {MAX_ENTRIES} entries"));
    }
    serde_json::from_value(value.clone()).map_err(|e| format!("{key}: {e}"))
}

/// The result of `ADD`: what came before, and what was added to it.
pub(crate) fn add_result(
    version: Version,
    before: Option<&PrevResult>,
    attached: &Attached,
    pod: (&InterfaceName, &str),
    dns: Option<&Value>,
) -> Value {
    let (pod_name, netns) = pod;
    let mut object = before.map(|b| b.object.clone()).unwrap_or_default();
    object.insert("cniVersion".to_owned(), json!(version.text()));
    let place = before.map_or(0, |b| b.interfaces.len());
    let mut interfaces = [
        json!({ "name": attached.host_name, "mac": attached.host_mac }),
        json!({ "name": pod_name.as_str(), "mac": attached.pod_mac, "sandbox": netns }),
    ];
    if version >= Version::V1_1_0 {
        interfaces.iter_mut().for_each(|i| i["mtu"] = json!(attached.mtu));
    }
    append(&mut object, "interfaces", interfaces);
    let ips = attached.addresses.iter().map(|(address, gateway)| {
        let mut ip = json!({ "address": IpNet::from(*address).to_string(), "gateway": gateway, "interface": place + 1 });
        if version == Version::V0_4_0 {
            ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
        }
        ip
    });
    append(&mut object, "ips", ips);
    let routes = attached.addresses.iter().map(|(address, gateway)| {
        json!({ "dst": if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway })
    });
    append(&mut object, "routes", routes);
    let earlier = object.remove("dns").unwrap_or_else(|| json!({}));
    object.insert("dns".to_owned(), dns.cloned().unwrap_or(earlier));
    Value::Object(object)
}

fn append(object: &mut Map<String, Value>, key: &str, more: impl IntoIterator<Item = Value>) {
    let list = object.entry(key).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.extend(more);
    }
}

/// An interface of this name is in the pod already.
pub(crate) fn already_there(name: &InterfaceName, by: &str) -> Failure {
    let name = name.as_str();
    Failure::new(
        Code::Exists,
        format!("{name} exists in the container already"),
        format!("{by}; run DEL for this container and interface first, or use another CNI_IFNAME"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> Attached {
        Attached {
            host_name: "veth1".to_owned(),
            host_mac: "02:00:00:00:00:01".to_owned(),
            pod_mac: "02:00:00:00:00:02".to_owned(),
            mtu: 1380,
            addresses: vec![
                ("10.1.0.1".parse().unwrap(), "169.254.1.1".parse().unwrap()),
                ("fd00::1".parse().unwrap(), "fe80::1".parse().unwrap()),
            ],
        }
    }

    fn eth0() -> InterfaceName {
        "eth0".to_owned().try_into().expect("a name")
    }

    fn result(version: Version, before: Option<&PrevResult>) -> Value {
        add_result(version, before, &attached(), (&eth0(), "/run/netns/p"), None)
    }

    #[test]
    fn a_result_has_the_fields_of_the_version_that_was_asked() {
        let newest = result(Version::V1_1_0, None);
        assert_eq!(
            newest,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "veth1", "mac": "02:00:00:00:00:01", "mtu": 1380 },
                    { "name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1380, "sandbox": "/run/netns/p" },
                ],
                "ips": [
                    { "address": "10.1.0.1/32", "gateway": "169.254.1.1", "interface": 1 },
                    { "address": "fd00::1/128", "gateway": "fe80::1", "interface": 1 },
                ],
                "routes": [
                    { "dst": "0.0.0.0/0", "gw": "169.254.1.1" }, { "dst": "::/0", "gw": "fe80::1" },
                ],
                "dns": {},
            })
        );
        assert!(result(Version::V1_0_0, None)["interfaces"][0].get("mtu").is_none());
        assert_eq!(result(Version::V0_4_0, None)["ips"][1]["version"], "6");
        assert!(newest["ips"][0].get("version").is_none());
    }

    #[test]
    fn what_came_before_stays_and_indices_point_behind_it() {
        let before = json!({
            "cniVersion": "1.1.0", "interfaces": [{ "name": "lo", "sandbox": "/run/netns/p" }],
            "ips": [{ "address": "127.0.0.1/8", "interface": 0 }], "dns": { "domain": "x" }, "other": 1,
        });
        let before = PrevResult::parse(&before).expect("a result");
        let merged = result(Version::V1_1_0, Some(&before));
        assert_eq!(merged["interfaces"].as_array().map(Vec::len), Some(3));
        assert_eq!(merged["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(merged["ips"][1]["interface"], 2);
        assert_eq!((&merged["dns"]["domain"], &merged["other"]), (&json!("x"), &json!(1)));
    }

    #[test]
    fn a_result_that_is_none_is_refused() {
        for bad in [json!([]), json!({ "ips": [{}] }), json!({ "ips": 1 }), json!({ "routes": vec![1; 257] })]
        {
            assert!(PrevResult::parse(&bad).is_err(), "{bad}");
        }
        assert!(PrevResult::parse(&json!({ "ips": null })).is_ok());
    }
}
