//! NATs and firewalls of home routers as nftables rules (mapping and filtering as in RFC 4787).

/// What a router does to traffic between its LAN (`lan`) and its uplink (`wan`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Plain routing: the internet knows the LAN's addresses.
    None,
    /// What most homes have: endpoint-independent mapping with the port kept, filtering by address
    /// and port.
    Home,
    /// A new outside port for every destination, filtering by address and port.
    Symmetric,
    /// Endpoint-independent mapping and filtering: once mapped, anyone may send.
    FullCone,
    /// Endpoint-independent mapping, filtering by address: whoever was sent to may answer from any port.
    AddressRestricted,
    /// As [`Nat::Home`], and no UDP but DNS leaves.
    UdpBlocked,
    /// As [`Nat::Home`], and nothing leaves but TCP to port 443.
    HttpsOnly,
    /// Nothing passes: only what the router itself forwards, such as a proxy on it.
    Closed,
}

impl Nat {
    /// The rules of this NAT for one router.
    pub(crate) fn rules(self) -> String {
        let nat = match self {
            Nat::None => return String::new(),
            Nat::Home | Nat::UdpBlocked | Nat::HttpsOnly | Nat::Closed => {
                "chain after { type nat hook postrouting priority srcnat; oifname \"wan\" masquerade; }"
            }
            Nat::Symmetric => {
                "chain after { type nat hook postrouting priority srcnat; \
                 oifname \"wan\" masquerade random,fully-random; }"
            }
            Nat::AddressRestricted => {
                "map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; }\n\
                 set seen { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 300s; }\n\
                 chain before { type nat hook prerouting priority dstnat; \
                 iifname \"wan\" udp dport . ip saddr @seen dnat to udp dport map @cone; }\n\
                 chain after { type nat hook postrouting priority srcnat; \
                 oifname \"wan\" meta l4proto udp update @cone { udp sport timeout 300s : ip saddr . udp sport }; \
                 oifname \"wan\" meta l4proto udp update @seen { udp sport . ip daddr timeout 300s }; \
                 oifname \"wan\" masquerade; }"
            }
            Nat::FullCone => {
                "map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; }\n\
                 chain before { type nat hook prerouting priority dstnat; \
                 iifname \"wan\" meta l4proto udp dnat to udp dport map @cone; }\n\
                 chain after { type nat hook postrouting priority srcnat; \
                 oifname \"wan\" meta l4proto udp update @cone { udp sport timeout 300s : ip saddr . udp sport }; \
                 oifname \"wan\" masquerade; }"
            }
        };
        let mapped = if matches!(self, Nat::FullCone | Nat::AddressRestricted) {
            "ct status dnat accept;"
        } else {
            ""
        };
        let udp = match self {
            Nat::UdpBlocked => "oifname \"wan\" meta l4proto udp udp dport != 53 drop;",
            Nat::HttpsOnly => {
                "oifname \"wan\" meta l4proto != tcp drop; oifname \"wan\" tcp dport != 443 drop;"
            }
            Nat::Closed => "drop;",
            Nat::None | Nat::Home | Nat::Symmetric | Nat::FullCone | Nat::AddressRestricted => "",
        };
        format!(
            "table ip lab {{\n{nat}\n\
             chain input {{ type filter hook input priority filter; iifname \"wan\" ct state established,related accept; \
             iifname \"wan\" drop; }}\n\
             chain forward {{ type filter hook forward priority filter; {udp} \
             iifname \"wan\" ct state established,related accept; iifname \"wan\" {mapped} iifname \"wan\" drop; }}\n}}\n\
             table ip6 lab {{\n\
             chain forward {{ type filter hook forward priority filter; {udp} \
             iifname \"wan\" ct state established,related accept; iifname \"wan\" drop; }}\n}}\n"
        )
        .replace("iifname \"wan\"  iifname", "iifname")
    }
}
