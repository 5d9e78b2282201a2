//! What kind of NAT is in front of this node, in the words of RFC 4787: found out from the endpoints that
//! several STUN servers see (as RFC 5780 §4.3 does).
//!
//! It sends nothing; it never guesses: with answers from one server only, the mapping stays unknown.

use meshd_proto::Endpoint;

/// How a NAT maps inside endpoints to outside ones (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mapping {
    /// Not found out.
    #[default]
    Unknown = 0,
    /// The same outside endpoint whoever is sent to, or no NAT at all: others can be told where we are.
    Independent = 1,
    /// Another one for every destination ("symmetric"): what STUN sees is of no use to others.
    Dependent = 2,
}

impl Mapping {
    /// By its number on the wire; unknown for one that we do not know.
    pub const fn of_code(code: u8) -> Self {
        match code {
            1 => Self::Independent,
            2 => Self::Dependent,
            _ => Self::Unknown,
        }
    }

    /// For a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Independent => "endpoint-independent",
            Self::Dependent => "endpoint-dependent",
        }
    }

    /// From what different servers saw of one socket at about the same time.
    pub fn of_sightings(seen: &[Endpoint]) -> Self {
        match seen {
            [] | [_] => Self::Unknown,
            [first, rest @ ..] if rest.iter().all(|e| e == first) => Self::Independent,
            _ => Self::Dependent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint(([203, 0, 113, 1], port).into())
    }

    #[test]
    fn one_server_s_word_is_not_enough_and_two_that_disagree_make_a_symmetric_nat() {
        assert_eq!(Mapping::of_sightings(&[]), Mapping::Unknown);
        assert_eq!(Mapping::of_sightings(&[endpoint(1)]), Mapping::Unknown);
        assert_eq!(Mapping::of_sightings(&[endpoint(1), endpoint(1)]), Mapping::Independent);
        assert_eq!(Mapping::of_sightings(&[endpoint(1), endpoint(1), endpoint(2)]), Mapping::Dependent);
        for mapping in [Mapping::Unknown, Mapping::Independent, Mapping::Dependent] {
            assert_eq!(Mapping::of_code(mapping as u8), mapping);
        }
        assert_eq!(Mapping::of_code(77), Mapping::Unknown);
    }
}
