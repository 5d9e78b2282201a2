//! From a checked configuration to a [`Table`].

use super::filter::{Edits, HeaderEdits, PathEdit, RedirectTo};
use super::hosts::{Hosts, Pattern};
use super::matcher::{Candidate, PathRule, Precedence};
use super::{
    Backend, Bind, BindKey, BindKind, Limits, Listener, Reach, RuleAction, StreamRoute, Table, Targets,
};
use crate::stats::RouteStats;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use meshd_proto::gateway::{
    Filter, GatewayConfig, GatewayConfigError, HeaderChange, JsonPath, Listener as ListenerConfig,
    ListenerProtocol, Match, PathChange, PathMatch, Route, Rule, WeightedBackend,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Why a configuration cannot be used here.
pub type CompileError = GatewayConfigError;

type Backends = HashMap<String, Arc<Backend>>;
type Counters = BTreeMap<String, Arc<RouteStats>>;

pub(super) fn table(
    config: &GatewayConfig,
    reach: Reach,
    previous: Option<&Table>,
) -> Result<Table, CompileError> {
    config.check()?;
    let mut backends = Backends::with_capacity(config.backends.len());
    for (i, one) in config.backends.iter().enumerate() {
        let known = previous.and_then(|p| p.backends.get(&one.name));
        let backend = Backend::build(one, reach, known).map_err(|(endpoint, (what, hint))| {
            let place = format!("backends[{i}].endpoints");
            CompileError::wrong(JsonPath::element(&place, endpoint), what, hint)
        })?;
        backends.insert(one.name.clone(), backend);
    }
    let kept = |name: &String| previous.and_then(|p| p.stats.get(name)).cloned().unwrap_or_default();
    let stats: Counters = config.routes.iter().map(|r| (r.name.clone(), kept(&r.name))).collect();
    let mut warnings = Vec::new();
    let mut attached = vec![false; config.routes.len()];
    let mut compiled = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        compiled.push(compile_listener(listener, config, (&backends, &stats), &mut attached)?);
    }
    for (route, _) in config.routes.iter().zip(&attached).filter(|(_, attached)| !**attached) {
        warnings.push(format!(
            "route `{}` is never used: none of its host names is served by its listeners",
            route.name
        ));
    }
    let mut binds: BTreeMap<BindKey, Bind> = BTreeMap::new();
    for (source, listener) in config.listeners.iter().zip(compiled) {
        let udp = source.protocol == ListenerProtocol::Udp;
        let key = BindKey { address: source.address.map(|ip| ip.to_canonical()), port: source.port, udp };
        let bind = binds.entry(key).or_insert_with(|| Bind {
            key,
            kind: match source.protocol {
                ListenerProtocol::Tcp => BindKind::Tcp,
                ListenerProtocol::Udp => BindKind::Udp,
                ListenerProtocol::Tls | ListenerProtocol::Https => BindKind::Tls,
                ListenerProtocol::Http => BindKind::Http,
            },
            listeners: Vec::new(),
            names: Hosts::default(),
            proxy_from: source.proxy_from.clone(),
            limits: Limits::from(&source.limits),
        });
        let index = bind.listeners.len();
        for pattern in patterns(&source.hostnames) {
            bind.names.entry(&pattern, || index);
        }
        bind.listeners.push(Arc::new(listener));
    }
    let binds = binds.into_iter().map(|(key, bind)| (key, Arc::new(bind))).collect();
    Ok(Table { generation: config.generation, binds, backends, stats, warnings })
}

/// The patterns of a list of names; an empty list is every name.
fn patterns(names: &[meshd_proto::DnsName]) -> Vec<Pattern> {
    if names.is_empty() { vec![Pattern::Any] } else { names.iter().map(Pattern::of).collect() }
}

fn compile_listener(
    listener: &ListenerConfig,
    config: &GatewayConfig,
    known: (&Backends, &Counters),
    attached: &mut [bool],
) -> Result<Listener, CompileError> {
    let mut rules: Hosts<Vec<Candidate>> = Hosts::default();
    let mut streams: Hosts<Arc<StreamRoute>> = Hosts::default();
    let own = patterns(&listener.hostnames);
    let mut order = 0;
    for (index, route) in config.routes.iter().enumerate() {
        if !route.listeners.contains(&listener.name) {
            continue;
        }
        let mut names: Vec<Pattern> = Vec::new();
        for a in &own {
            names.extend(patterns(&route.hostnames).iter().filter_map(|b| a.intersect(b)));
        }
        names.sort();
        names.dedup();
        attached[index] |= !names.is_empty();
        match listener.protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => {
                add_rules(&mut rules, &names, (route, index), known, &mut order)?;
            }
            ListenerProtocol::Tcp | ListenerProtocol::Udp | ListenerProtocol::Tls => {
                let first = route.rules.first().map(|rule| rule.backends.as_slice()).unwrap_or_default();
                let stream = Arc::new(StreamRoute {
                    route: route.name.as_str().into(),
                    stats: counters(known.1, &route.name),
                    targets: targets(first, known.0),
                });
                for name in &names {
                    streams.entry(name, || Arc::clone(&stream));
                }
            }
        }
    }
    for list in rules.values_mut() {
        list.sort_by_key(|candidate| candidate.precedence);
    }
    let tls = listener.tls.clone().unwrap_or_default();
    let mut certificates: Vec<String> = tls.default_certificate.into_iter().collect();
    certificates.extend(
        tls.certificates.into_iter().filter(|name| certificates.first() != Some(name)).collect::<Vec<_>>(),
    );
    Ok(Listener {
        name: listener.name.as_str().into(),
        port: listener.port,
        protocol: listener.protocol,
        certificates,
        trusted_proxies: listener.trusted_proxies.clone(),
        rules,
        streams,
    })
}

fn add_rules(
    rules: &mut Hosts<Vec<Candidate>>,
    names: &[Pattern],
    (route, index): (&Route, usize),
    (backends, stats): (&Backends, &Counters),
    order: &mut usize,
) -> Result<(), CompileError> {
    let name: Arc<str> = route.name.as_str().into();
    let every = [Match::default()];
    for (i, rule) in route.rules.iter().enumerate() {
        let place = format!("routes[{index}].rules");
        let action = Arc::new(action(rule, &name, &counters(stats, &name), backends).ok_or_else(|| {
            CompileError::wrong(
                JsonPath::element(&place, i),
                "a header name or value is not valid",
                "correct it",
            )
        })?);
        let matches = if rule.matches.is_empty() { every.as_slice() } else { &rule.matches };
        for one in matches {
            *order += 1;
            for pattern in names {
                let candidate = candidate(one, &action, *order).ok_or_else(|| {
                    CompileError::wrong(JsonPath::element(&place, i), "a match is not valid", "correct it")
                })?;
                rules.entry(pattern, Vec::new).push(candidate);
            }
        }
    }
    Ok(())
}

fn candidate(one: &Match, action: &Arc<RuleAction>, order: usize) -> Option<Candidate> {
    let path = match &one.path {
        Some(PathMatch::Exact(path)) => PathRule::Exact(path.clone()),
        Some(PathMatch::Prefix(path)) => PathRule::Prefix(path.trim_end_matches('/').to_owned()),
        None => PathRule::Prefix(String::new()),
    };
    let method = match &one.method {
        Some(method) => Some(Method::from_bytes(method.as_bytes()).ok()?),
        None => None,
    };
    let headers = one
        .headers
        .iter()
        .map(|h| Some((HeaderName::from_bytes(h.name.as_bytes()).ok()?, h.value.clone().into_bytes())))
        .collect::<Option<Vec<_>>>()?;
    let query = one.query.iter().map(|q| (q.name.clone(), q.value.clone())).collect();
    let none = Precedence {
        exact: Reverse(false),
        prefix: Reverse(0),
        method: Reverse(false),
        headers: Reverse(0),
        query: Reverse(0),
        order,
    };
    let mut candidate =
        Candidate { path, method, headers, query, precedence: none, action: Arc::clone(action) };
    candidate.rank(order);
    Some(candidate)
}

fn counters(stats: &Counters, route: &str) -> Arc<RouteStats> {
    stats.get(route).cloned().unwrap_or_default()
}

fn action(rule: &Rule, route: &Arc<str>, stats: &Arc<RouteStats>, backends: &Backends) -> Option<RuleAction> {
    let some = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    Some(RuleAction {
        route: Arc::clone(route),
        stats: Arc::clone(stats),
        edits: edits(&rule.filters)?,
        targets: targets(&rule.backends, backends),
        request_timeout: some(rule.timeouts.request_ms),
        backend_timeout: some(rule.timeouts.backend_ms),
        retries: rule.retries,
    })
}

fn targets(list: &[WeightedBackend], backends: &Backends) -> Targets {
    let share = |one: &WeightedBackend| {
        backends.get(&one.backend).map(|backend| (Arc::clone(backend), u64::from(one.weight)))
    };
    Targets::new(list.iter().filter_map(share).collect())
}

fn edits(filters: &[Filter]) -> Option<Edits> {
    let mut edits = Edits::default();
    for filter in filters {
        match filter {
            Filter::RequestHeaders(change) => change_headers(&mut edits.request, change)?,
            Filter::ResponseHeaders(change) => change_headers(&mut edits.response, change)?,
            Filter::Rewrite(rewrite) => {
                if let Some(name) = &rewrite.hostname {
                    edits.hostname = Some(HeaderValue::from_str(name.as_str()).ok()?);
                }
                edits.path = rewrite.path.as_ref().map(path_edit).or(edits.path);
            }
            Filter::Redirect(to) => {
                edits.redirect = Some(RedirectTo {
                    scheme: to.scheme.as_deref().map(|s| if s == "https" { "https" } else { "http" }),
                    hostname: to.hostname.as_ref().map(|n| n.as_str().to_owned()),
                    port: to.port,
                    path: to.path.as_ref().map(path_edit),
                    status: StatusCode::from_u16(to.status).ok()?,
                });
            }
        }
    }
    Some(edits)
}

fn path_edit(change: &PathChange) -> PathEdit {
    match change {
        PathChange::Full(path) => PathEdit::Full(path.clone()),
        PathChange::Prefix(path) => PathEdit::Prefix(path.clone()),
    }
}

fn change_headers(edits: &mut HeaderEdits, change: &HeaderChange) -> Option<()> {
    let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
    for (list, into) in [(&change.set, &mut edits.set), (&change.add, &mut edits.add)] {
        for header in list {
            into.push((name(&header.name)?, HeaderValue::from_str(&header.value).ok()?));
        }
    }
    for header in &change.remove {
        edits.remove.push(name(header)?);
    }
    Some(())
}
