use super::*;

#[test]
fn keys_have_the_text_form_of_wg_and_secrets_never_print() {
    let secret = NodeSecret::from_bytes([7; 32]);
    let text = secret.public().to_string();
    assert_eq!(text.len(), 44);
    assert_eq!(text.parse::<NodeKey>().unwrap(), secret.public());
    assert_eq!(format!("{secret:?}"), "NodeSecret(redacted)");
    assert!("short".parse::<NodeKey>().is_err());
    assert!(format!("{text}AA").parse::<NodeKey>().is_err());
}

#[test]
fn both_sides_of_a_diffie_hellman_agree_and_low_order_keys_are_refused() {
    let (a, b) = (NodeSecret::from_bytes([1; 32]), NodeSecret::from_bytes([2; 32]));
    let ab = a.diffie_hellman(b.public().as_bytes()).unwrap();
    let ba = b.diffie_hellman(a.public().as_bytes()).unwrap();
    assert_eq!(ab.as_bytes(), ba.as_bytes());
    assert!(a.diffie_hellman(&[0; 32]).is_none());
}

#[test]
fn a_mac_separates_its_parts() {
    let s = SharedSecret([3; 32]);
    assert_ne!(s.mac("l", &[b"ab", b"c"]), s.mac("l", &[b"a", b"bc"]));
    assert_ne!(s.mac("l", &[b"ab"]), s.mac("m", &[b"ab"]));
}

#[test]
fn a_signature_verifies_only_its_message_and_key() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let sig = key.sign(b"permit");
    assert!(key.verifying_key().verify(b"permit", &sig));
    assert!(!key.verifying_key().verify(b"Permit", &sig));
    assert!(!SigningKey::from_bytes(&[8; 32]).verifying_key().verify(b"permit", &sig));
}
