use super::*;

const WHOLE: &str = r#"{
  "version": 1, "generation": 7,
  "listeners": [
    {"name": "web", "port": 80, "protocol": "http"},
    {"name": "secure", "port": 443, "protocol": "https", "hostnames": ["*.example.com"],
     "tls": {"certificates": ["main"]}, "proxy_from": ["10.0.0.0/8"], "limits": {"streams": 10}},
    {"name": "home", "port": 443, "protocol": "tls", "hostnames": ["home.example.com"],
     "proxy_from": ["10.0.0.0/8"], "limits": {"streams": 10}},
    {"name": "db", "port": 5432, "protocol": "tcp", "address": "127.0.0.1"},
    {"name": "dns", "port": 53, "protocol": "udp"}
  ],
  "routes": [
    {"name": "app", "listeners": ["secure"], "hostnames": ["app.example.com"], "rules": [
      {"matches": [{"path": {"prefix": "/api"}, "method": "GET", "headers": [{"name": "x-v", "value": "2"}]}],
       "filters": [{"type": "rewrite", "path": {"prefix": "/"}},
                   {"type": "request-headers", "set": [{"name": "x-a", "value": "b"}]}],
       "backends": [{"backend": "app", "weight": 3}], "timeouts": {"request_ms": 1000}}]},
    {"name": "redirect", "listeners": ["web"], "rules": [
      {"filters": [{"type": "redirect", "scheme": "https", "status": 301}]}]},
    {"name": "home", "listeners": ["home"], "rules": [{"backends": [{"backend": "app"}]}]},
    {"name": "db", "listeners": ["db", "dns"], "rules": [{"backends": [{"backend": "app"}]}]}
  ],
  "backends": [{"name": "app", "endpoints": [{"address": "10.0.0.1", "port": 8080}], "balance": "least-request"}],
  "certificates": [{"name": "main", "chain_file": "/etc/c.pem", "key_file": "/etc/k.pem"}]
}"#;

fn refused(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "{from}");
    GatewayConfig::from_json(&WHOLE.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_configuration_is_read_whole_and_written_back_the_same() {
    let config = GatewayConfig::from_json(WHOLE).unwrap();
    assert_eq!(config.listeners.len(), 5);
    assert_eq!(config.routes[0].rules[0].backends[0].weight, 3);
    assert_eq!(GatewayConfig::from_json(&config.to_json()).unwrap(), config);
    assert!(config.holds_keys());
    let least = GatewayConfig::from_json(r#"{"generation":1}"#).unwrap();
    assert_eq!(least.version, FORMAT);
    assert!(!least.holds_keys());
}

#[test]
fn an_error_names_its_place_and_what_to_do() {
    let cases = [
        (r#""version": 1"#, r#""version": 2"#, "version: format 2 is not known"),
        (r#""port": 80,"#, r#""port": 0,"#, "listeners[0].port: it is 0"),
        (r#""weight": 3"#, r#""weigth": 3"#, "routes[0].rules[0].backends[0].weigth"),
        (
            r#""listeners": ["web"]"#,
            r#""listeners": ["wbe"]"#,
            "routes[1].listeners[0]: there is no listener `wbe`",
        ),
        (
            r#"{"backend": "app", "weight": 3}"#,
            r#"{"backend": "x"}"#,
            "rules[0].backends[0].backend: there is no backend `x`",
        ),
        (r#"["main"]"#, r#"["other"]"#, "listeners[1].tls.certificates[0]: there is no certificate `other`"),
        (r#""status": 301"#, r#""status": 200"#, "routes[1].rules[0].filters[0].status: 200 is no redirect"),
        (r#""prefix": "/api""#, r#""prefix": "api""#, "matches[0].path: `api` is no path"),
        (r#""prefix": "/api""#, r#""exact": "/api""#, "a prefix can be replaced only where a prefix matched"),
        (r#""name": "x-a""#, r#""name": "Content-Length""#, "frames the message"),
        (r#""value": "b""#, r#""value": "b\r\nc: d""#, "control characters"),
        (
            r#""hostnames": ["home.example.com"]"#,
            r#""hostnames": ["*.example.com"]"#,
            "both serve `*.example.com` on port 443",
        ),
        (
            r#""protocol": "tcp""#,
            r#""protocol": "tcp", "hostnames": ["a.b"]"#,
            "TCP and UDP carry no host names",
        ),
        (r#""key_file": "/etc/k.pem""#, r#""acme": true"#, "exactly one place"),
        (
            r#""address": "10.0.0.1""#,
            r#""address": "0.0.0.0""#,
            "backends[0].endpoints[0].address: 0.0.0.0 is nobody's",
        ),
        (
            r#""name": "db", "port": 5432"#,
            r#""name": "web", "port": 5432"#,
            "listeners[3].name: `web` is there twice",
        ),
        (
            r#""port": 53, "protocol": "udp""#,
            r#""port": 80, "protocol": "tcp""#,
            "speak different things on port 80",
        ),
        (
            r#""limits": {"streams": 10}},
    {"name": "home""#,
            r#""limits": {"streams": 11}},
    {"name": "home""#,
            "settings of the port",
        ),
        (
            r#""listeners": ["home"], "rules": [{"#,
            r#""listeners": ["home"], "rules": [{"filters": [{"type": "rewrite"}], "#,
            "matches and filters are for HTTP",
        ),
    ];
    for (from, to, says) in cases {
        let error = refused(from, to);
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn what_is_too_large_is_not_read() {
    let long = " ".repeat(limits::MAX_GATEWAY_CONFIG + 1);
    assert!(matches!(GatewayConfig::from_json(&long), Err(GatewayConfigError::TooLarge(_))));
    let listeners: Vec<String> = (0..=limits::MAX_GATEWAY_LISTENERS)
        .map(|i| format!(r#"{{"name":"l{i}","port":{},"protocol":"tcp"}}"#, i + 1))
        .collect();
    let many = format!(r#"{{"generation":1,"listeners":[{}]}}"#, listeners.join(","));
    let error = GatewayConfig::from_json(&many).unwrap_err().to_string();
    assert!(error.contains("listeners: 257 entries"), "{error}");
    assert!(GatewayConfig::from_json(r#"{"generation":1} x"#).is_err());
}

#[test]
fn a_key_is_not_shown_by_debug() {
    let inline = WHOLE
        .replace("chain_file", "chain_pem")
        .replace(r#""key_file": "/etc/k.pem""#, r#""key_pem": "SECRET""#);
    let config = GatewayConfig::from_json(&inline).unwrap();
    assert!(!format!("{config:?}").contains("SECRET"));
}
