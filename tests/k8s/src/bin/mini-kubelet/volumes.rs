//! A pod's volumes as folders below its own: made once, kept up to date, mounted into containers.
//!
//! Secrets and ConfigMaps are read again now and then, ServiceAccount tokens when four fifths of their time are over.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::environment::{data, field, text};
use crate::{Kubelet, STATE};

/// Seconds that a token lives unless the pod says otherwise.
const TOKEN_SECONDS: u64 = 3600;

/// When a token has to be asked for again, by its file.
pub(crate) type Renewals = BTreeMap<PathBuf, Instant>;

/// Where a volume is on the machine.
pub(crate) fn place(uid: &str, volume: &Value) -> PathBuf {
    match volume["hostPath"]["path"].as_str() {
        Some(path) => path.into(),
        None => Path::new(STATE).join(uid).join("volumes").join(text(&volume["name"])),
    }
}

/// Makes all volumes, or brings them up to date.
pub(crate) async fn fill(
    kubelet: &Kubelet,
    pod: &Value,
    addresses: &[String],
    renewals: &mut Renewals,
    now: Instant,
) -> Result<()> {
    let uid = text(&pod["metadata"]["uid"]);
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let folder = place(&uid, volume);
        let name = text(&volume["name"]);
        one(kubelet, pod, volume, &folder, addresses, renewals, now)
            .await
            .with_context(|| format!("volume {name}"))?;
    }
    Ok(())
}

async fn one(
    kubelet: &Kubelet,
    pod: &Value,
    volume: &Value,
    folder: &Path,
    addresses: &[String],
    renewals: &mut Renewals,
    now: Instant,
) -> Result<()> {
    if volume["hostPath"].is_object() {
        let kind = volume["hostPath"]["type"].as_str().unwrap_or_default();
        if kind.ends_with("OrCreate") && !folder.exists() {
            if kind.starts_with("File") {
                fs::write(folder, "")?;
            } else {
                fs::create_dir_all(folder)?;
            }
        }
        ensure!(folder.exists(), "{} is not there", folder.display());
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    if volume["emptyDir"].is_object() {
        // Pods of every user write here, as with a real kubelet.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
        return Ok(());
    }
    if volume["projected"].is_object() {
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            source_into(kubelet, pod, source, folder, addresses, renewals, now).await?;
        }
        return Ok(());
    }
    let mut source = volume.clone();
    if let Some(map) = source["secret"].as_object_mut() {
        let name = map.remove("secretName").unwrap_or_default();
        map.insert("name".to_owned(), name);
    }
    source_into(kubelet, pod, &source, folder, addresses, renewals, now).await
}

/// One source of a projected volume; the other kinds of volume have the same shapes.
async fn source_into(
    kubelet: &Kubelet,
    pod: &Value,
    source: &Value,
    folder: &Path,
    addresses: &[String],
    renewals: &mut Renewals,
    now: Instant,
) -> Result<()> {
    let namespace = text(&pod["metadata"]["namespace"]);
    for (kind, name) in [("secrets", "secret"), ("configmaps", "configMap")] {
        let reference = &source[name];
        if !reference.is_object() {
            continue;
        }
        let entries = data(kubelet, &namespace, kind, reference).await?.unwrap_or_default();
        match reference["items"].as_array() {
            None => {
                for (key, value) in &entries {
                    write(folder, key, value)?;
                }
                remove_others(folder, &entries)?;
            }
            Some(items) => {
                for item in items {
                    let (key, path) = (text(&item["key"]), text(&item["path"]));
                    let value = entries.get(&key);
                    let value =
                        value.with_context(|| format!("{kind} {} has no key {key}", reference["name"]))?;
                    write(folder, &path, value)?;
                }
            }
        }
        return Ok(());
    }
    if source["downwardAPI"].is_object() {
        for item in source["downwardAPI"]["items"].as_array().into_iter().flatten() {
            let value =
                field(kubelet, pod, item["fieldRef"]["fieldPath"].as_str().unwrap_or_default(), addresses)?;
            write(folder, &text(&item["path"]), value.as_bytes())?;
        }
        return Ok(());
    }
    if source["serviceAccountToken"].is_object() {
        return token(kubelet, pod, &source["serviceAccountToken"], folder, renewals, now).await;
    }
    bail!("this kind of volume is not there: {source}")
}

/// A token bound to this pod (TokenRequest).
async fn token(
    kubelet: &Kubelet,
    pod: &Value,
    source: &Value,
    folder: &Path,
    renewals: &mut Renewals,
    now: Instant,
) -> Result<()> {
    let file = text(&source["path"]);
    let place = folder.join(&file);
    if renewals.get(&place).is_some_and(|at| now < *at) {
        return Ok(());
    }
    let (namespace, account) = (&pod["metadata"]["namespace"], &pod["spec"]["serviceAccountName"]);
    let seconds = source["expirationSeconds"].as_u64().unwrap_or(TOKEN_SECONDS);
    let audiences: Vec<&str> = source["audience"].as_str().into_iter().collect();
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": audiences, "expirationSeconds": seconds,
        "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"] } } });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", text(namespace), text(account));
    let answer = kubelet.api.post(&path, &request).await?;
    write(folder, &file, text(&answer["status"]["token"]).as_bytes())?;
    renewals.insert(place, now + Duration::from_secs(seconds * 4 / 5));
    Ok(())
}

/// Replaces a file in one step; a reader sees the old or the new one.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    ensure!(
        !name.is_empty() && !name.starts_with('/') && !name.contains(".."),
        "{name:?} is no file name of a volume"
    );
    let path = folder.join(name);
    if fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = path.with_extension("..new");
    fs::write(&new, bytes)?;
    fs::rename(new, path).with_context(|| format!("cannot write {name}"))
}

/// A key that has gone takes its file with it.
fn remove_others(folder: &Path, entries: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    // A projected volume has files of other sources, too.
    if folder.join("token").exists() || folder.join("namespace").exists() {
        return Ok(());
    }
    for file in fs::read_dir(folder)?.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if file.path().is_file() && !entries.contains_key(&name) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// What is mounted into a container: lines of `source TAB target TAB ro|rw`.
pub(crate) fn mounts(pod: &Value, container: &Value) -> Result<String> {
    let uid = text(&pod["metadata"]["uid"]);
    let mut lines = String::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let name = &mount["name"];
        let volumes = pod["spec"]["volumes"].as_array();
        let volume = volumes.and_then(|all| all.iter().find(|volume| volume["name"] == *name));
        let volume = volume.with_context(|| format!("no volume {name}"))?;
        let mut source = place(&uid, volume);
        if let Some(below) = mount["subPath"].as_str() {
            source.push(below);
        }
        let always_read_only =
            ["secret", "configMap", "projected", "downwardAPI"].iter().any(|kind| volume[*kind].is_object());
        let mode = if mount["readOnly"] == true || always_read_only { "ro" } else { "rw" };
        lines.push_str(&format!("{}\t{}\t{mode}\n", source.display(), text(&mount["mountPath"])));
    }
    Ok(lines)
}
