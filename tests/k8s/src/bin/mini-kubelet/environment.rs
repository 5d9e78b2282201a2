//! A container's environment and arguments: values, references, and `$(NAME)` in them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::Kubelet;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All variables of a container.
pub(crate) async fn variables(
    kubelet: &Kubelet,
    pod: &Value,
    container: &Value,
    addresses: &[String],
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    all.insert("PATH".to_owned(), format!("{}:{PATH}", kubelet.args.programs.display()));
    all.insert("HOME".to_owned(), "/root".to_owned());
    all.insert("HOSTNAME".to_owned(), text(&pod["metadata"]["name"]));
    all.insert("KUBERNETES_SERVICE_HOST".to_owned(), kubelet.args.api_service.to_string());
    all.insert("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned());
    let namespace = text(&pod["metadata"]["namespace"]);
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (kind, field) in [("configmaps", "configMapRef"), ("secrets", "secretRef")] {
            let reference = &source[field];
            if reference.is_object()
                && let Some(entries) = data(kubelet, &namespace, kind, reference).await?
            {
                let named = entries.into_iter().map(|(key, value)| {
                    (format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned())
                });
                all.extend(named);
            }
        }
    }
    for entry in container["env"].as_array().into_iter().flatten() {
        let value = match &entry["valueFrom"] {
            Value::Null => Some(expand(entry["value"].as_str().unwrap_or_default(), &all)),
            from => referred(kubelet, pod, from, &namespace, addresses).await?,
        };
        if let Some(value) = value {
            all.insert(text(&entry["name"]), value);
        }
    }
    Ok(all)
}

async fn referred(
    kubelet: &Kubelet,
    pod: &Value,
    from: &Value,
    namespace: &str,
    addresses: &[String],
) -> Result<Option<String>> {
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(kubelet, pod, path, addresses).map(Some);
    }
    for (kind, name) in [("configmaps", "configMapKeyRef"), ("secrets", "secretKeyRef")] {
        let reference = &from[name];
        if let Some(key) = reference["key"].as_str() {
            let entries = data(kubelet, namespace, kind, reference).await?.unwrap_or_default();
            let value = entries.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
            if value.is_none() && reference["optional"] != true {
                bail!("{kind} {} has no key {key}", reference["name"]);
            }
            return Ok(value);
        }
    }
    if from["resourceFieldRef"].is_object() {
        return Ok(Some("0".to_owned()));
    }
    bail!("this kind of valueFrom is not there: {from}")
}

/// The value of a downward API field.
pub(crate) fn field(kubelet: &Kubelet, pod: &Value, path: &str, addresses: &[String]) -> Result<String> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let name = map.strip_prefix("metadata.").context("only metadata has maps")?;
        return Ok(text(&pod["metadata"][name][key]));
    }
    Ok(match path {
        "status.podIP" => addresses.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.join(","),
        "status.hostIP" => kubelet.args.address[0].to_string(),
        "metadata.labels" | "metadata.annotations" => {
            let name = path.strip_prefix("metadata.").unwrap_or_default();
            let map = pod["metadata"][name].as_object().cloned().unwrap_or_default();
            map.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
        }
        _ => text(path.split('.').fold(pod, |value, name| &value[name])),
    })
}

/// All entries of a Secret or ConfigMap; nothing when it is optional and not there.
pub(crate) async fn data(
    kubelet: &Kubelet,
    namespace: &str,
    kind: &str,
    reference: &Value,
) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
    let name = reference["name"]
        .as_str()
        .or(reference["secretName"].as_str())
        .context("a reference without a name")?;
    let object = match kubelet.api.get(&format!("/api/v1/namespaces/{namespace}/{kind}/{name}")).await {
        Ok(object) => object,
        Err(_) if reference["optional"] == true => return Ok(None),
        Err(why) => return Err(why),
    };
    let mut all = BTreeMap::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let value = text(value);
        all.insert(key.clone(), if kind == "secrets" { STANDARD.decode(value)? } else { value.into_bytes() });
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        all.insert(key.clone(), STANDARD.decode(text(value))?);
    }
    Ok(Some(all))
}

/// `$(NAME)` becomes the variable's value when there is one, `$$(` stays `$(`.
pub(crate) fn expand(value: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_becomes_its_value_and_two_dollars_become_one() {
        let all = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x=$(A) $(B) $$(A) $ 5$", &all), "x=1 $(B) $(A) $ 5$");
    }
}
