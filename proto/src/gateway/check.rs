//! Whether a configuration fits together.

use super::{
    Backend, Certificate, Filter, GatewayConfig, GatewayConfigError as Error, HeaderChange, JsonPath,
    Listener, ListenerProtocol, Match, PathChange, PathMatch, Route, Rule,
};
use crate::limits::{
    MAX_GATEWAY_BACKENDS, MAX_GATEWAY_CERTIFICATES, MAX_GATEWAY_ENDPOINTS, MAX_GATEWAY_LISTENERS,
    MAX_GATEWAY_ROUTES, MAX_GATEWAY_TERMS, MAX_TEXT,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

type Checked = Result<(), Error>;

impl GatewayConfig {
    /// Checks everything that does not need the machine it will run on.
    ///
    /// # Errors
    /// The first fault with its place and what to do.
    pub fn check(&self) -> Checked {
        let root = JsonPath::root();
        if self.version != super::FORMAT {
            return Err(Error::wrong(
                root.key("version"),
                format!("format {} is not known", self.version),
                format!("this release reads format {}", super::FORMAT),
            ));
        }
        bounded(&root.key("listeners"), self.listeners.len(), MAX_GATEWAY_LISTENERS)?;
        bounded(&root.key("routes"), self.routes.len(), MAX_GATEWAY_ROUTES)?;
        bounded(&root.key("backends"), self.backends.len(), MAX_GATEWAY_BACKENDS)?;
        bounded(&root.key("certificates"), self.certificates.len(), MAX_GATEWAY_CERTIFICATES)?;
        let listeners = unique(&root.key("listeners"), self.listeners.iter().map(|l| l.name.as_str()))?;
        unique(&root.key("routes"), self.routes.iter().map(|r| r.name.as_str()))?;
        let backends = unique(&root.key("backends"), self.backends.iter().map(|b| b.name.as_str()))?;
        let certificates =
            unique(&root.key("certificates"), self.certificates.iter().map(|c| c.name.as_str()))?;
        for (i, certificate) in self.certificates.iter().enumerate() {
            self.certificate(&JsonPath::element("certificates", i), certificate)?;
        }
        for (i, backend) in self.backends.iter().enumerate() {
            check_backend(&JsonPath::element("backends", i), backend)?;
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            check_listener(&JsonPath::element("listeners", i), listener, &certificates)?;
        }
        self.ports()?;
        for (i, route) in self.routes.iter().enumerate() {
            self.route(&JsonPath::element("routes", i), route, &listeners, &backends)?;
        }
        if let Some(acme) = &self.acme {
            let at = root.key("acme");
            if !acme.directory.starts_with("https://") || acme.directory.len() > MAX_TEXT {
                return Err(Error::wrong(
                    at.key("directory"),
                    format!("`{}` is no https URL", clip(&acme.directory)),
                    "give the authority's directory, such as https://acme-v02.api.letsencrypt.org/directory",
                ));
            }
            bounded(&at.key("contact"), acme.contact.len(), 8)?;
        }
        Ok(())
    }

    /// Listeners on one port have to be told apart.
    fn ports(&self) -> Checked {
        let mut seen: HashMap<(u16, bool), Vec<usize>> = HashMap::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            let udp = listener.protocol == ListenerProtocol::Udp;
            let others = seen.entry((listener.port, udp)).or_default();
            for other in others.iter().map(|o| &self.listeners[*o]) {
                if let Some((what, hint)) = clash(other, listener) {
                    return Err(Error::wrong(JsonPath::element("listeners", i), what, hint));
                }
            }
            others.push(i);
        }
        Ok(())
    }

    fn certificate(&self, at: &JsonPath, certificate: &Certificate) -> Checked {
        let files = certificate.chain_file.is_some() || certificate.key_file.is_some();
        let inline = certificate.chain_pem.is_some() || certificate.key_pem.is_some();
        if [files, inline, certificate.acme].into_iter().filter(|given| *given).count() != 1 {
            return Err(Error::wrong(
                at.clone(),
                "a certificate comes from exactly one place",
                "give `chain_file` and `key_file`, or `chain_pem` and `key_pem`, or `acme`",
            ));
        }
        let half = certificate.chain_file.is_some() != certificate.key_file.is_some()
            || certificate.chain_pem.is_some() != certificate.key_pem.is_some();
        if half {
            return Err(Error::wrong(at.clone(), "chain or key is missing", "give both"));
        }
        bounded(&at.key("hostnames"), certificate.hostnames.len(), MAX_GATEWAY_TERMS)?;
        if certificate.acme && certificate.hostnames.is_empty() {
            return Err(Error::wrong(at.key("hostnames"), "it is empty", "name what to order it for"));
        }
        if certificate.acme && self.acme.is_none() {
            return Err(Error::wrong(at.key("acme"), "no authority is given", "add a section `acme`"));
        }
        if let Some(wild) =
            certificate.hostnames.iter().find(|n| n.as_str().starts_with('*')).filter(|_| certificate.acme)
        {
            return Err(Error::wrong(
                at.key("hostnames"),
                format!("`{wild}` is a wildcard, which HTTP-01 and TLS-ALPN-01 cannot prove"),
                "name each host, or bring a certificate from a file",
            ));
        }
        Ok(())
    }

    fn route(&self, at: &JsonPath, route: &Route, listeners: &Names<'_>, backends: &Names<'_>) -> Checked {
        bounded(&at.key("listeners"), route.listeners.len(), MAX_GATEWAY_LISTENERS)?;
        bounded(&at.key("hostnames"), route.hostnames.len(), MAX_GATEWAY_TERMS)?;
        bounded(&at.key("rules"), route.rules.len(), MAX_GATEWAY_TERMS)?;
        if route.rules.is_empty() {
            return Err(Error::wrong(at.key("rules"), "it is empty", "give at least one rule"));
        }
        let mut http = false;
        let mut raw = false;
        for (i, name) in route.listeners.iter().enumerate() {
            let place = at.key("listeners").at(i);
            let listener = listeners
                .get(name.as_str())
                .map(|index| &self.listeners[*index])
                .ok_or_else(|| missing(place.clone(), "listener", name))?;
            let is_http = matches!(listener.protocol, ListenerProtocol::Http | ListenerProtocol::Https);
            http |= is_http;
            raw |= !is_http;
            if !route.hostnames.is_empty() && !listener.protocol.has_names() {
                return Err(Error::wrong(
                    place,
                    format!("`{name}` speaks no host names"),
                    "leave `hostnames` of this route empty, or attach it to a tls, http or https listener",
                ));
            }
        }
        if http && raw {
            return Err(Error::wrong(
                at.key("listeners"),
                "HTTP listeners stand beside TCP, UDP or TLS ones",
                "make two routes",
            ));
        }
        for (i, rule) in route.rules.iter().enumerate() {
            let place = at.key("rules").at(i);
            check_rule(&place, rule, backends)?;
            if raw && !(rule.matches.is_empty() && rule.filters.is_empty()) {
                return Err(Error::wrong(
                    place,
                    "matches and filters are for HTTP",
                    "leave them out, or attach the route to an http or https listener",
                ));
            }
        }
        Ok(())
    }
}

type Names<'a> = HashMap<&'a str, usize>;

fn unique<'a>(at: &JsonPath, names: impl Iterator<Item = &'a str>) -> Result<Names<'a>, Error> {
    let mut seen = HashMap::new();
    for (i, name) in names.enumerate() {
        let place = at.at(i).key("name");
        if name.is_empty() || name.len() > 253 || name.chars().any(char::is_control) {
            return Err(Error::wrong(place, "a name has 1 to 253 printable characters", "choose another"));
        }
        if seen.insert(name, i).is_some() {
            return Err(Error::wrong(place, format!("`{name}` is there twice"), "choose another name"));
        }
    }
    Ok(seen)
}

fn bounded(at: &JsonPath, count: usize, most: usize) -> Checked {
    if count > most {
        return Err(Error::wrong(
            at.clone(),
            format!("{count} entries"),
            format!("at most {most} are accepted; split it over several gateways"),
        ));
    }
    Ok(())
}

fn missing(at: JsonPath, kind: &str, name: &str) -> Error {
    Error::wrong(
        at,
        format!("there is no {kind} `{}`", clip(name)),
        format!("add it, or correct the name of the {kind}"),
    )
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_listener(at: &JsonPath, listener: &Listener, certificates: &Names<'_>) -> Checked {
    if listener.port == 0 {
        return Err(Error::wrong(at.key("port"), "it is 0", "name the port it serves"));
    }
    for (key, count) in [
        ("hostnames", listener.hostnames.len()),
        ("proxy_from", listener.proxy_from.len()),
        ("trusted_proxies", listener.trusted_proxies.len()),
    ] {
        bounded(&at.key(key), count, MAX_GATEWAY_TERMS)?;
    }
    if !listener.hostnames.is_empty() && !listener.protocol.has_names() {
        return Err(Error::wrong(
            at.key("hostnames"),
            "TCP and UDP carry no host names",
            "leave it empty, or use protocol tls, http or https",
        ));
    }
    let limits = &listener.limits;
    for (key, value) in [
        ("connections", u64::from(limits.connections)),
        ("connections_per_source", u64::from(limits.connections_per_source)),
        ("header_timeout_ms", limits.header_timeout_ms),
        ("idle_timeout_ms", limits.idle_timeout_ms),
        ("streams", u64::from(limits.streams)),
    ] {
        if value == 0 {
            return Err(Error::wrong(at.key("limits").key(key), "it is 0", "leave it out for the default"));
        }
    }
    if !(1024..=1 << 20).contains(&limits.header_bytes) {
        return Err(Error::wrong(
            at.key("limits").key("header_bytes"),
            format!("{} bytes", limits.header_bytes),
            "choose 1024 to 1048576",
        ));
    }
    match (&listener.tls, listener.protocol) {
        (None, ListenerProtocol::Https) => {
            Err(Error::wrong(at.key("tls"), "it is missing", "name the certificates of this https listener"))
        }
        (Some(_), protocol) if protocol != ListenerProtocol::Https => Err(Error::wrong(
            at.key("tls"),
            "only https listeners end TLS",
            "leave it out, or use protocol https",
        )),
        (Some(tls), _) => {
            let at = at.key("tls");
            bounded(&at.key("certificates"), tls.certificates.len(), MAX_GATEWAY_CERTIFICATES)?;
            if tls.certificates.is_empty() {
                return Err(Error::wrong(at.key("certificates"), "it is empty", "name at least one"));
            }
            for (i, name) in tls.certificates.iter().enumerate() {
                if !certificates.contains_key(name.as_str()) {
                    return Err(missing(at.key("certificates").at(i), "certificate", name));
                }
            }
            match &tls.default_certificate {
                Some(name) if !certificates.contains_key(name.as_str()) => {
                    Err(missing(at.key("default_certificate"), "certificate", name))
                }
                _ => Ok(()),
            }
        }
        (None, _) => Ok(()),
    }
}

/// Why two listeners of one port and transport cannot stand beside each other.
fn clash(a: &Listener, b: &Listener) -> Option<(String, String)> {
    let any = |l: &Listener| l.address.is_none_or(|ip| ip.is_unspecified());
    if a.address != b.address && !any(a) && !any(b) {
        return None;
    }
    let both = format!("listeners `{}` and `{}`", clip(&a.name), clip(&b.name));
    if a.address != b.address {
        let distinct = |x: Option<IpAddr>, y: Option<IpAddr>| matches!((x, y), (Some(x), Some(y)) if x.is_ipv4() != y.is_ipv4());
        if distinct(a.address, b.address) {
            return None;
        }
        return Some((
            format!("{both} share port {}, and one of them takes every address", b.port),
            "give both the same address, or each its own".to_owned(),
        ));
    }
    if !(a.protocol == b.protocol || a.protocol.is_tls() && b.protocol.is_tls()) {
        return Some((
            format!("{both} speak different things on port {}", b.port),
            "give one of them another port".to_owned(),
        ));
    }
    if a.proxy_from != b.proxy_from || a.limits != b.limits {
        return Some((
            format!("{both} share port {} with different `proxy_from` or `limits`", b.port),
            "these are settings of the port: write them equally".to_owned(),
        ));
    }
    let names: HashSet<_> = a.hostnames.iter().collect();
    let twice = b.hostnames.iter().find(|n| names.contains(n));
    let every = a.hostnames.is_empty() && b.hostnames.is_empty();
    if !a.protocol.has_names() || every || twice.is_some() {
        let which = twice.map_or_else(|| "every name".to_owned(), |n| format!("`{n}`"));
        return Some((
            format!("{both} both serve {which} on port {}", b.port),
            "give them different host names, or make them one".to_owned(),
        ));
    }
    None
}

fn check_backend(at: &JsonPath, backend: &Backend) -> Checked {
    bounded(&at.key("endpoints"), backend.endpoints.len(), MAX_GATEWAY_ENDPOINTS)?;
    let mut seen = HashSet::new();
    for (i, endpoint) in backend.endpoints.iter().enumerate() {
        let place = at.key("endpoints").at(i);
        let ip = endpoint.address;
        if endpoint.port == 0 {
            return Err(Error::wrong(place.key("port"), "it is 0", "name the port it serves"));
        }
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(Error::wrong(
                place.key("address"),
                format!("{ip} is nobody's address"),
                "give a host's",
            ));
        }
        if !seen.insert((ip, endpoint.port)) {
            return Err(Error::wrong(
                place,
                format!("{ip} port {} is there twice", endpoint.port),
                "use `weight`",
            ));
        }
        if endpoint.weight == 0 || endpoint.weight > 1000 {
            return Err(Error::wrong(
                place.key("weight"),
                "weights are 1 to 1000",
                "use `ready` to take it out",
            ));
        }
    }
    if let Some(tls) = &backend.tls {
        if tls.ca_file.is_some() && tls.ca_pem.is_some() {
            return Err(Error::wrong(at.key("tls"), "`ca_file` and `ca_pem` are both given", "give one"));
        }
        if tls.server_name.as_str().starts_with('*') {
            return Err(Error::wrong(at.key("tls").key("server_name"), "it is a wildcard", "name one host"));
        }
    }
    if let Some(health) = &backend.health {
        let at = at.key("health");
        if health.interval_ms < 100 || health.timeout_ms == 0 || health.unhealthy == 0 || health.healthy == 0
        {
            return Err(Error::wrong(
                at,
                "a number is too small",
                "`interval_ms` is at least 100, the others at least 1",
            ));
        }
        if let Some(path) = &health.path {
            check_path(&at.key("path"), path)?;
        }
    }
    if backend.connect_timeout_ms == 0 {
        return Err(Error::wrong(at.key("connect_timeout_ms"), "it is 0", "leave it out for the default"));
    }
    Ok(())
}

fn check_rule(at: &JsonPath, rule: &Rule, backends: &Names<'_>) -> Checked {
    bounded(&at.key("matches"), rule.matches.len(), MAX_GATEWAY_TERMS)?;
    bounded(&at.key("filters"), rule.filters.len(), 16)?;
    bounded(&at.key("backends"), rule.backends.len(), MAX_GATEWAY_TERMS)?;
    for (i, target) in rule.backends.iter().enumerate() {
        if !backends.contains_key(target.backend.as_str()) {
            return Err(missing(at.key("backends").at(i).key("backend"), "backend", &target.backend));
        }
    }
    for (i, one) in rule.matches.iter().enumerate() {
        check_match(&at.key("matches").at(i), one)?;
    }
    for (i, filter) in rule.filters.iter().enumerate() {
        check_filter(&at.key("filters").at(i), filter, rule)?;
    }
    Ok(())
}

fn check_match(at: &JsonPath, one: &Match) -> Checked {
    bounded(&at.key("headers"), one.headers.len(), 16)?;
    bounded(&at.key("query"), one.query.len(), 16)?;
    if let Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) = &one.path {
        check_path(&at.key("path"), path)?;
    }
    if let Some(method) = &one.method
        && !is_token(method)
    {
        return Err(Error::wrong(
            at.key("method"),
            format!("`{}` is no method", clip(method)),
            "write it like GET",
        ));
    }
    for (i, header) in one.headers.iter().enumerate() {
        check_header(&at.key("headers").at(i), &header.name, &header.value)?;
    }
    for (i, query) in one.query.iter().enumerate() {
        if query.name.is_empty() || query.name.len() + query.value.len() > MAX_TEXT {
            return Err(Error::wrong(
                at.key("query").at(i),
                "name or value is empty or too long",
                "shorten it",
            ));
        }
    }
    Ok(())
}

fn check_filter(at: &JsonPath, filter: &Filter, rule: &Rule) -> Checked {
    let check_change = |change: &Option<PathChange>| match change {
        None => Ok(()),
        Some(PathChange::Full(path)) => check_path(&at.key("path"), path),
        Some(PathChange::Prefix(path)) => {
            let by_prefix = |m: &Match| matches!(m.path, None | Some(PathMatch::Prefix(_)));
            if !rule.matches.iter().all(by_prefix) {
                return Err(Error::wrong(
                    at.key("path"),
                    "a prefix can be replaced only where a prefix matched",
                    "use `full`, or match by prefix",
                ));
            }
            check_path(&at.key("path"), path)
        }
    };
    match filter {
        Filter::RequestHeaders(change) | Filter::ResponseHeaders(change) => {
            check_change_of_headers(at, change)
        }
        Filter::Rewrite(rewrite) => check_change(&rewrite.path),
        Filter::Redirect(redirect) => {
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                return Err(Error::wrong(
                    at.key("status"),
                    format!("{} is no redirect", redirect.status),
                    "choose 301, 302, 303, 307 or 308",
                ));
            }
            if let Some(scheme) = &redirect.scheme
                && !matches!(scheme.as_str(), "http" | "https")
            {
                return Err(Error::wrong(
                    at.key("scheme"),
                    format!("`{}`", clip(scheme)),
                    "choose http or https",
                ));
            }
            if redirect.port == Some(0) {
                return Err(Error::wrong(at.key("port"), "it is 0", "leave it out, or name a port"));
            }
            check_change(&redirect.path)
        }
    }
}

fn check_change_of_headers(at: &JsonPath, change: &HeaderChange) -> Checked {
    bounded(at, change.set.len() + change.add.len() + change.remove.len(), MAX_GATEWAY_TERMS)?;
    for (key, list) in [("set", &change.set), ("add", &change.add)] {
        for (i, header) in list.iter().enumerate() {
            check_header(&at.key(key).at(i), &header.name, &header.value)?;
        }
    }
    for (i, name) in change.remove.iter().enumerate() {
        check_header(&at.key("remove").at(i), name, "")?;
    }
    Ok(())
}

/// A field that a configuration may name. Framing and the target stay the gateway's own business.
fn check_header(at: &JsonPath, name: &str, value: &str) -> Checked {
    const OWN: [&str; 6] = ["content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"];
    if !is_token(name) || name.len() > MAX_TEXT {
        return Err(Error::wrong(
            at.clone(),
            format!("`{}` is no header name", clip(name)),
            "use letters, digits and -",
        ));
    }
    if OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(Error::wrong(
            at.clone(),
            format!("`{name}` frames the message"),
            "leave it to the gateway",
        ));
    }
    if value.len() > MAX_TEXT || value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        return Err(Error::wrong(
            at.clone(),
            "the value is too long or holds control characters",
            "correct it",
        ));
    }
    Ok(())
}

fn check_path(at: &JsonPath, path: &str) -> Checked {
    let odd = |b: u8| !(0x21..=0x7e).contains(&b) || b == b'?' || b == b'#';
    if !path.starts_with('/') || path.len() > MAX_TEXT || path.bytes().any(odd) {
        return Err(Error::wrong(
            at.clone(),
            format!("`{}` is no path", clip(path)),
            "start with /, without query, fragment or spaces; write others as %XX",
        ));
    }
    Ok(())
}

fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}
