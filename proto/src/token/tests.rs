use super::*;

fn token() -> JoinToken {
    let keys = CoordinatorKeys {
        control: CoordinatorKey::from_bytes([1; 32]),
        signing: VerifyingKey::from_bytes([2; 32]),
    };
    JoinToken::new(
        vec!["home.example.net:443".into(), "203.0.113.7:8443".into(), "[2001:db8::1]:8443".into()],
        NetworkId::from_bytes([3; 16]),
        keys.hash(),
        TokenSecret::from_bytes([4; 16]),
    )
    .unwrap()
}

#[test]
fn a_token_survives_its_text_form() {
    let token = token();
    let text = token.to_text();
    assert!(text.starts_with("mesh_") && text.len() < 250, "{}", text.len());
    assert_eq!(text.parse::<JoinToken>().unwrap(), token);
}

#[test]
fn white_space_and_line_breaks_of_a_copy_are_forgiven() {
    let text = token().to_text();
    let (a, b) = text.split_at(100);
    assert_eq!(format!("  {a}\r\n{b}\n\n").parse::<JoinToken>().unwrap(), token());
}

#[test]
fn every_cut_copy_is_said_to_be_cut() {
    let text = token().to_text();
    for n in 6..text.len() {
        let e = text[..n].parse::<JoinToken>().unwrap_err();
        assert_eq!(e, TokenError::Truncated, "{n}");
    }
    assert_eq!("mesh_".parse::<JoinToken>().unwrap_err(), TokenError::Truncated);
}

#[test]
fn every_changed_character_is_noticed() {
    let text = token().to_text();
    for i in 5..text.len() {
        let mut other = text.as_bytes().to_vec();
        other[i] = if other[i] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        if let Ok(same) = other.parse::<JoinToken>() {
            panic!("position {i} was not noticed: {same:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let text = token().to_text();
    assert_eq!("".parse::<JoinToken>().unwrap_err(), TokenError::Empty);
    assert_eq!("https://x".parse::<JoinToken>().unwrap_err(), TokenError::NotAToken);
    assert_eq!(format!("{} --foo", *text).parse::<JoinToken>().unwrap_err(), TokenError::TooLong);
    assert_eq!(format!("{}AAAA", *text).parse::<JoinToken>().unwrap_err(), TokenError::TooLong);
    assert!(matches!(
        text.replacen("mesh_A", "mesh_+", 1).parse::<JoinToken>().unwrap_err(),
        TokenError::BadCharacter { bad: '+', position: 6 }
    ));
    let newer = format!("mesh_{}", BASE64URL.encode([2; 80]));
    assert_eq!(newer.parse::<JoinToken>().unwrap_err(), TokenError::Newer(2));
    let huge = format!("mesh_{}", "A".repeat(100_000));
    assert_eq!(huge.parse::<JoinToken>().unwrap_err(), TokenError::TooLong);
}

#[test]
fn a_token_cannot_be_made_with_an_address_that_cannot_be_dialled() {
    for bad in ["", "host", "host:0", "host:70000", "1.2.3:80", "2001:db8::1:443", "a b:1", "x/y:1"] {
        let made = JoinToken::new(
            vec![bad.to_owned()],
            NetworkId::from_bytes([0; 16]),
            KeysHash::from_bytes([0; 32]),
            TokenSecret::from_bytes([0; 16]),
        );
        assert_eq!(made.unwrap_err(), TokenError::BadAddress(bad.to_owned()));
    }
}

#[test]
fn addresses_that_do_not_fit_into_a_token_are_refused_when_it_is_made() {
    let made = |labels: usize| {
        let long = format!("{}example.com:443", "a-label-of-twenty-0.".repeat(labels));
        let list = vec![long; MAX_ADDRESSES];
        let (keys, secret) = (KeysHash::from_bytes([2; 32]), TokenSecret::from_bytes([3; 16]));
        JoinToken::new(list, NetworkId::from_bytes([1; 16]), keys, secret)
    };
    let fits = made(8).unwrap();
    assert_eq!(fits.to_text().parse::<JoinToken>(), Ok(fits));
    assert_eq!(made(10), Err(TokenError::AddressesTooLong));
}

#[test]
fn the_secret_is_not_in_the_debug_form() {
    let text = format!("{:?}", token());
    assert!(text.contains("redacted") && !text.contains("4, 4, 4"), "{text}");
}

#[test]
fn the_hash_covers_both_keys() {
    let a = CoordinatorKeys {
        control: CoordinatorKey::from_bytes([1; 32]),
        signing: VerifyingKey::from_bytes([2; 32]),
    };
    let swapped = CoordinatorKeys {
        control: CoordinatorKey::from_bytes([2; 32]),
        signing: VerifyingKey::from_bytes([1; 32]),
    };
    assert!(a.hash().matches(&a) && !a.hash().matches(&swapped));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "mesh_[A-Za-z0-9_-]{0,300}") {
        let _ = text.parse::<JoinToken>();
    }
}
