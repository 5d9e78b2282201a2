//! Who may depend on whom, and that every dependency earns its place.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use meshd_tidy::{expect_none, has_word, root, rust_files};

/// The whole list: a crate of ours and the crates of ours that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("meshd-proto", &[]),
    ("meshd-policy", &["meshd-proto"]),
    ("meshd-dns", &["meshd-proto"]),
    ("meshd-relay", &["meshd-proto"]),
    ("meshd-engine", &["meshd-proto", "meshd-policy"]),
    ("meshd-node", &["meshd-proto", "meshd-engine", "meshd-dns", "meshd-relay"]),
    ("meshd-gateway", &["meshd-proto", "meshd-dns", "meshd-node"]),
    ("meshd", &["meshd-proto", "meshd-node", "meshd-gateway"]),
    ("meshd-coordinator", &["meshd-proto", "meshd-policy", "meshd-dns", "meshd-relay"]),
    ("meshd-operator", &["meshd-proto"]),
    ("meshd-cni", &["meshd-proto"]),
];

/// Inside a crate: files whose path begins so never name these modules.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "coordinator/src/model",
        &["crate::service", "crate::store", "crate::api", "crate::web", "crate::control"],
    ),
    ("coordinator/src/store", &["crate::service", "crate::api", "crate::web", "crate::control"]),
    ("coordinator/src/service", &["crate::web", "crate::control", "crate::serve"]),
];

/// Crates whose manifests, and all that they pull in, stay free of an async runtime.
const WITHOUT_RUNTIME: &[&str] = &["meshd-proto", "meshd-policy", "meshd-engine"];

/// Dependencies that the design names, each with the shipped crate that carries it.
const REQUIRED: &[(&str, &str)] = &[
    ("boringtun", "meshd-engine"),
    ("x25519-dalek", "meshd-proto"),
    ("ipnet", "meshd-proto"),
    ("hickory-server", "meshd-dns"),
    ("tokio", "meshd-node"),
    ("tun-rs", "meshd-node"),
    ("rtnetlink", "meshd-node"),
    ("tracing", "meshd-node"),
    ("serde", "meshd-node"),
    ("axum", "meshd-coordinator"),
];

/// Never in the tree, whatever pulls them in.
const BANNED: &[&str] = &["openssl-sys", "aws-lc-sys"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--locked".into(), "--filter-platform".into(), "x86_64-unknown-linux-gnu".into()])
        .exec()
        .expect("cargo metadata describes the workspace")
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

fn folder(package: &Package) -> String {
    let manifest = package.manifest_path.parent().expect("a manifest lies in a folder");
    manifest.strip_prefix(root().to_str().expect("a printable path")).expect("below the root").to_string()
}

fn is_test_crate(package: &Package) -> bool {
    folder(package).starts_with("tests/")
}

#[test]
fn crates_depend_only_on_what_the_design_allows() {
    let metadata = metadata();
    let names: BTreeSet<&str> = ours(&metadata).iter().map(|p| p.name.as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in ours(&metadata).into_iter().filter(|p| !is_test_crate(p)) {
        let Some(may) = allowed.get(package.name.as_str()) else {
            breaches.push(format!("{} is not a crate of the design", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            if names.contains(dependency.name.as_str()) && !may.contains(&dependency.name.as_str()) {
                breaches.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    for (name, _) in ALLOWED {
        if !names.contains(name) {
            breaches.push(format!("{name} is in the design and not in the workspace"));
        }
    }
    expect_none("dependency edges that docs/architecture.md does not allow:", &breaches);
}

#[test]
fn the_layers_of_a_crate_lean_one_way() {
    let files = rust_files();
    let breaches: Vec<String> = LAYERS
        .iter()
        .flat_map(|(below, never)| never.iter().map(move |module| (below, module)))
        .flat_map(|(below, module)| {
            let own = files.iter().filter(move |f| f.path.starts_with(below) && f.is_production());
            own.flat_map(move |f| f.lines_with(module))
        })
        .collect();
    expect_none("modules that name a layer above their own:", &breaches);
}

#[test]
fn nothing_depends_on_the_test_crates() {
    let metadata = metadata();
    let tests: BTreeSet<&str> =
        ours(&metadata).iter().filter(|p| is_test_crate(p)).map(|p| p.name.as_str()).collect();
    let breaches: Vec<String> = ours(&metadata)
        .into_iter()
        .filter(|p| !is_test_crate(p))
        .flat_map(|p| p.dependencies.iter().map(move |d| (p, d)))
        .filter(|(_, d)| tests.contains(d.name.as_str()))
        .map(|(p, d)| format!("{} → {}", p.name, d.name))
        .collect();
    expect_none("shipped crates that use a test crate:", &breaches);
}

#[test]
fn a_crate_lies_in_the_folder_of_its_name() {
    let metadata = metadata();
    let breaches: Vec<String> = ours(&metadata)
        .into_iter()
        .filter(|p| {
            let last = folder(p).rsplit('/').next().unwrap_or_default().to_owned();
            !(p.name.as_str() == "meshd" && last == "meshd"
                || p.name.as_str() == "meshd-cni" && folder(p) == "cni/plugin"
                || p.name.as_str() == format!("meshd-{last}"))
        })
        .map(|p| format!("{} in {}", p.name, folder(p)))
        .collect();
    expect_none("folder x is package meshd-x:", &breaches);
}

#[test]
fn the_cores_pull_in_no_runtime() {
    let metadata = metadata();
    let mut breaches = Vec::new();
    for name in WITHOUT_RUNTIME {
        for (package, path) in closure(&metadata, name) {
            if ["tokio", "async-std", "smol", "mio", "socket2"].contains(&package.as_str()) {
                breaches.push(path);
            }
        }
    }
    expect_none("a core crate cannot do I/O, its dependencies have no runtime:", &breaches);
}

/// Everything that `name` is built with (normal dependencies), each with the way to it.
fn closure(metadata: &Metadata, name: &str) -> BTreeMap<String, String> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let start = ours(metadata).into_iter().find(|p| p.name.as_str() == name).expect("a crate of ours");
    let mut seen = BTreeMap::new();
    let mut open = vec![(&start.id, name.to_owned())];
    while let Some((id, path)) = open.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
            let package = metadata[&dependency.pkg].name.to_string();
            if normal && !seen.contains_key(&package) {
                let path = format!("{path} → {package}");
                seen.insert(package, path.clone());
                open.push((&dependency.pkg, path));
            }
        }
    }
    seen
}

#[test]
fn banned_packages_are_in_no_build() {
    let metadata = metadata();
    let breaches: Vec<String> = metadata
        .packages
        .iter()
        .filter(|p| BANNED.contains(&p.name.as_str()))
        .map(|p| format!("{} {}", p.name, p.version))
        .collect();
    expect_none("one TLS stack, rustls with ring:", &breaches);
}

#[test]
fn every_dependency_is_used_where_it_is_listed() {
    let metadata = metadata();
    let files = rust_files();
    let mut breaches = Vec::new();
    for package in ours(&metadata) {
        let below = format!("{}/", folder(package));
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let import = dependency.rename.as_deref().unwrap_or(&dependency.name).replace('-', "_");
            let used = files
                .iter()
                .filter(|f| f.path.starts_with(&below))
                .any(|f| f.text.lines().any(|line| has_word(line, &import)));
            if !used {
                breaches.push(format!("{} lists {}", package.name, dependency.name));
            }
        }
    }
    expect_none("dependencies that nothing uses:", &breaches);
}

#[test]
fn the_design_s_dependencies_are_direct_and_used() {
    let metadata = metadata();
    let files = rust_files();
    let mut breaches = Vec::new();
    for (wanted, carrier) in REQUIRED {
        let import = wanted.replace('-', "_");
        let used = ours(&metadata).into_iter().filter(|p| p.name.as_str() == *carrier).any(|package| {
            let below = format!("{}/src/", folder(package));
            package.dependencies.iter().any(|d| d.name == *wanted && d.kind == DependencyKind::Normal)
                && files
                    .iter()
                    .filter(|f| f.path.starts_with(&below) && f.is_production())
                    .any(|f| !f.lines_with(&import).is_empty())
        });
        if !used {
            breaches.push(format!("{carrier} does not use {wanted}"));
        }
    }
    expect_none("direct, used dependencies of shipped crates:", &breaches);
}
