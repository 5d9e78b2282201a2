//! People: links that work once, signing in, what ends a session, who may change whom; and what keeps an
//! admin from cutting the mesh apart.

use super::*;
use crate::model::Owner;
use crate::service::passcode::code_at;
use crate::service::sessions::throttle_keys;
use crate::store::accounts::TotpSecret;
use std::net::{IpAddr, Ipv4Addr};

const PASSWORD: &str = "four calm words here";
const HOME: (IpAddr, &str) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), "a browser");

fn attempt<'a>(name: &'a str, password: &'a str, code: &'a str, browser: Option<&'a str>) -> Attempt<'a> {
    Attempt { name, password, code, browser }
}

async fn secret_of(service: &Service, link: &str, view: &LinkView) -> TotpSecret {
    service.behind_link(link, view, NOW).await.unwrap().unwrap().totp
}

/// An account through a link, and its TOTP secret.
async fn join(service: &Service, role: Role, name: &str) -> (NewSession, TotpSecret, Vec<String>) {
    let link = service.invite(&ROOT, role, name, 3600, NOW).await.unwrap().secret;
    let view = LinkView::fresh();
    let totp = secret_of(service, &link, &view).await;
    let code = code_at(&totp, NOW.0 / 30);
    let new = NewAccount { link: &link, view: &view, name: "", password: PASSWORD, code: &code };
    let (session, codes) = service.accept_link(&new, HOME, NOW).await.unwrap();
    (session, totp, codes.iter().map(|c| c.to_string()).collect())
}

#[tokio::test]
async fn a_link_makes_one_account_and_a_wrong_code_does_not_use_it_up() {
    let (_dir, service) = fresh().await;
    assert!(service.has_no_account().await.unwrap());
    let link = service.create_admin_link(&ROOT, NOW).await.unwrap().secret;
    let view = LinkView::fresh();
    let totp = secret_of(&service, &link, &view).await;
    let code = code_at(&totp, NOW.0 / 30);
    let try_with = async |name: &str, password: &str, code: &str| {
        let new = NewAccount { link: &link, view: &view, name, password, code };
        service.accept_link(&new, HOME, NOW).await.map(|(session, codes)| (session.actor, codes.len()))
    };
    assert!(matches!(try_with("ada", PASSWORD, "000000").await, Err(ServiceError::Invalid(_))));
    assert!(matches!(try_with("ada", "short", &code).await, Err(ServiceError::Invalid(_))));
    assert!(matches!(try_with("a b", PASSWORD, &code).await, Err(ServiceError::Invalid(_))));
    let (actor, codes) = try_with("Ada", PASSWORD, &code).await.unwrap();
    assert_eq!((actor.role(), actor.to_string(), codes), (Some(Role::Owner), "user:ada".to_owned(), 10));
    assert!(matches!(try_with("eve", PASSWORD, &code).await, Err(ServiceError::Conflict(_))));
    let late = service.create_admin_link(&ROOT, NOW).await.unwrap().secret;
    assert!(
        service.behind_link(&late, &LinkView::fresh(), UnixSeconds(NOW.0 + 3600)).await.unwrap().is_none()
    );
    let newer = service.create_admin_link(&ROOT, NOW).await.unwrap().secret;
    assert!(
        service.behind_link(&late, &LinkView::fresh(), NOW).await.unwrap().is_none(),
        "a newer link ends the one before"
    );
    assert!(service.behind_link(&newer, &LinkView::fresh(), NOW).await.unwrap().is_some());
}

#[tokio::test]
async fn who_opens_a_link_first_does_not_know_the_second_factor_of_who_uses_it() {
    let (_dir, service) = fresh().await;
    let link = service.invite(&ROOT, Role::Admin, "ada", 3600, NOW).await.unwrap().secret;
    let (eve, ada) = (LinkView::fresh(), LinkView::fresh());
    let (eves, adas) = (secret_of(&service, &link, &eve).await, secret_of(&service, &link, &ada).await);
    assert!(eves != adas, "another browser, another secret");
    let again = LinkView::read(&ada.cookie()).unwrap();
    assert!(secret_of(&service, &link, &again).await == adas, "the same browser, the same secret");
    for bad in ["", "AAAA", &format!("{}A", *ada.cookie()), &"!".repeat(32), &"ä".repeat(16)] {
        assert!(LinkView::read(bad).is_none(), "{bad}");
    }
    let make = async |secret: &TotpSecret| {
        let code = code_at(secret, NOW.0 / 30);
        let new = NewAccount { link: &link, view: &ada, name: "", password: PASSWORD, code: &code };
        service.accept_link(&new, HOME, NOW).await
    };
    assert!(matches!(make(&eves).await, Err(ServiceError::Invalid(_))));
    make(&adas).await.unwrap();
    let later = UnixSeconds(NOW.0 + 60);
    let sign_in = async |secret: &TotpSecret| {
        let code = code_at(secret, later.0 / 30);
        service.login(&attempt("ada", PASSWORD, &code, None), HOME, later).await
    };
    assert!(sign_in(&eves).await.is_err());
    assert!(sign_in(&adas).await.is_ok());
}

#[tokio::test]
async fn signing_in_takes_all_three_and_each_code_once() {
    let (_dir, service) = fresh().await;
    let (_, totp, codes) = join(&service, Role::Admin, "ada").await;
    let later = UnixSeconds(NOW.0 + 60);
    let code = code_at(&totp, later.0 / 30);
    let login = async |name: &str, password: &str, code: &str| {
        service.login(&attempt(name, password, code, None), HOME, later).await.map(|s| s.secret)
    };
    assert!(login("ada", "another password", &code).await.is_err());
    assert!(login("bob", PASSWORD, &code).await.is_err());
    assert!(login("ada", PASSWORD, "").await.is_err());
    let secret = login(" ADA ", PASSWORD, &code).await.unwrap();
    assert!(login("ada", PASSWORD, &code).await.is_err(), "the same code again");
    assert!(login("ada", PASSWORD, &codes[3].to_uppercase()).await.is_ok());
    assert!(login("ada", PASSWORD, &codes[3]).await.is_err(), "the same recovery code again");
    let session = service.session(&secret, later).await.unwrap().unwrap();
    assert_eq!(session.actor.to_string(), "user:ada");
    assert!(service.session("guess", later).await.unwrap().is_none());
    let (idle, old) = (UnixSeconds(later.0 + 8 * 3600), UnixSeconds(later.0 + 3 * 24 * 3600));
    assert!(service.session(&secret, UnixSeconds(idle.0 - 1)).await.unwrap().is_some());
    assert!(service.session(&secret, UnixSeconds(idle.0 + 8 * 3600)).await.unwrap().is_none(), "idle");
    assert!(service.session(&secret, old).await.unwrap().is_none(), "old");
}

#[tokio::test]
async fn who_guesses_waits_longer_and_longer_and_others_do_not() {
    let (_dir, service) = fresh().await;
    let (_, totp, _) = join(&service, Role::Admin, "ada").await;
    let later = UnixSeconds(NOW.0 + 60);
    let guess = async |from: IpAddr| {
        service.login(&attempt("ada", "wrong password", "000000", None), (from, ""), later).await.unwrap_err()
    };
    let stranger: IpAddr = "198.51.100.9".parse().unwrap();
    for _ in 0..6 {
        assert!(matches!(guess(stranger).await, LoginError::Wrong));
    }
    assert!(matches!(guess(stranger).await, LoginError::Wait(1..)));
    let code = code_at(&totp, later.0 / 30);
    assert!(
        service.login(&attempt("ada", PASSWORD, &code, None), HOME, later).await.is_ok(),
        "from home it works"
    );
    let audit = service.audit(&ROOT, None, 20).await.unwrap();
    assert!(audit.iter().any(|e| e.action == "login.refused" && !e.detail.contains("wrong")));
}

#[tokio::test]
async fn strangers_from_everywhere_do_not_keep_a_person_out_of_a_browser_that_knew_her() {
    let (_dir, service) = fresh().await;
    let (ada, totp, _) = join(&service, Role::Owner, "ada").await;
    let (bob, _, _) = join(&service, Role::Admin, "bob").await;
    let mut now = UnixSeconds(NOW.0 + 60);
    let sign_in = async |browser: Option<&str>, password: &str, now: UnixSeconds| {
        let code = code_at(&totp, now.0 / 30);
        service.login(&attempt("ada", password, &code, browser), HOME, now).await
    };
    // What `login` counts before it looks at a password, of a hundred places.
    for n in 0..=100 {
        service.throttle.begin(&throttle_keys("ada", IpAddr::from([198, 51, 100, n])), now);
    }
    let held = |r: Result<NewSession, LoginError>| matches!(r, Err(LoginError::Wait(1..)));
    assert!(held(sign_in(None, PASSWORD, now).await), "the name is held back");
    let forged = format!("{}x", *ada.browser);
    let other = ada.browser.replace(ada.browser.split('.').next().unwrap(), "AAAAAAAAAAAAAAAAAAAAAA");
    for bad in [bob.browser.as_str(), &forged, &other, "a.1.b", "..", ""] {
        assert!(held(sign_in(Some(bad), PASSWORD, now).await), "{bad}");
    }
    let old = UnixSeconds(NOW.0 + BROWSER_LIFETIME);
    assert!(sign_in(Some(&ada.browser), PASSWORD, now).await.is_ok(), "her own browser is not");
    // It is held back by its own failures, and by those alone.
    now.0 += 30;
    for _ in 0..6 {
        assert!(matches!(sign_in(Some(&ada.browser), "wrong password", now).await, Err(LoginError::Wrong)));
    }
    assert!(held(sign_in(Some(&ada.browser), PASSWORD, now).await));
    for n in 0..=100 {
        service.throttle.begin(&throttle_keys("ada", IpAddr::from([198, 51, 101, n])), old);
    }
    assert!(held(sign_in(Some(&ada.browser), PASSWORD, old).await), "after half a year it is a stranger's");
}

#[tokio::test]
async fn a_change_of_role_counts_at_once_and_switching_off_ends_sessions() {
    let (_dir, service) = fresh().await;
    let (boss, _, _) = join(&service, Role::Owner, "boss").await;
    let (ada, _, _) = join(&service, Role::Admin, "ada").await;
    service.set_role(&boss.actor, "ada", Role::Auditor, NOW).await.unwrap();
    let now = service.session(&ada.secret, NOW).await.unwrap().unwrap();
    assert_eq!(now.actor.role(), Some(Role::Auditor));
    service.set_enabled(&boss.actor, "ada", false, NOW).await.unwrap();
    assert!(service.session(&ada.secret, NOW).await.unwrap().is_none());
    service.set_enabled(&boss.actor, "ada", true, NOW).await.unwrap();
    assert!(service.session(&ada.secret, NOW).await.unwrap().is_none(), "old sessions stay ended");
}

#[tokio::test]
async fn nobody_rises_above_the_own_role_and_the_last_owner_stays() {
    let (_dir, service) = fresh().await;
    let (boss, _, _) = join(&service, Role::Owner, "boss").await;
    let (admin, _, _) = join(&service, Role::Admin, "admin").await;
    let refused =
        |r: Result<(), ServiceError>| assert!(matches!(r, Err(ServiceError::Forbidden { .. })), "{r:?}");
    refused(service.invite(&admin.actor, Role::Owner, "x", 60, NOW).await.map(|_| ()));
    refused(service.set_role(&admin.actor, "admin", Role::Owner, NOW).await);
    refused(service.set_role(&admin.actor, "boss", Role::Member, NOW).await);
    refused(service.remove_user(&admin.actor, "boss", NOW).await);
    refused(service.create_admin_link(&boss.actor, NOW).await.map(|_| ()));
    let kept = service.remove_user(&boss.actor, "boss", NOW).await;
    assert!(matches!(kept, Err(ServiceError::Conflict(_))));
    assert!(service.set_enabled(&ROOT, "boss", false, NOW).await.is_err());
    service.set_role(&boss.actor, "admin", Role::Owner, NOW).await.unwrap();
    service.remove_user(&ROOT, "boss", NOW).await.unwrap();
    assert!(service.session(&boss.secret, NOW).await.unwrap().is_none());
}

#[tokio::test]
async fn accounts_survive_a_restart_and_no_secret_is_in_the_database() {
    let (dir, service) = fresh().await;
    let (session, _, codes) = join(&service, Role::Owner, "boss").await;
    let link = service.invite(&ROOT, Role::Member, "", 600, NOW).await.unwrap().secret;
    let copy = service.backup(&ROOT, NOW).await.unwrap();
    for secret in [session.secret.as_str(), PASSWORD, codes[0].as_str(), link.as_str()] {
        let found = copy.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "a secret is stored as it is");
    }
    drop(service);
    let service = open(&dir).await;
    assert!(service.session(&session.secret, NOW).await.unwrap().is_some());
    assert!(service.behind_link(&link, &LinkView::fresh(), NOW).await.unwrap().is_some());
}

#[tokio::test]
async fn a_policy_that_cuts_the_mesh_apart_is_taken_only_by_force_and_can_be_rolled_back() {
    let (_dir, service) = fresh().await;
    let (ada, _, _) = join(&service, Role::Admin, "ada").await;
    let request = TokenRequest { user: Some("ada".to_owned()), ..TokenRequest::default() };
    let made = service.create_token(&ROOT, &request, NOW).await.unwrap();
    for n in 0..3 {
        let secret = TokenSecret::from_bytes(*made.token.secret.as_bytes());
        service.register(&machine(n, Some(&secret)), NOW).await.unwrap();
    }
    let before = service.policy(&ROOT).unwrap();
    let gentle = |text| PolicyChange { text, expected: None, force: false };
    let plan = service.plan_policy(&ada.actor, "{}").unwrap();
    assert!(plan.danger.as_deref().is_some_and(|d| d.contains("your own machines")), "{plan:?}");
    assert!(plan.plan.pairs_before == 6 && plan.plan.pairs_after == 0);
    let refused = service.set_policy(&ada.actor, &gentle("{}"), NOW).await;
    assert!(matches!(refused, Err(ServiceError::Conflict(_))));
    assert!(matches!(service.set_policy(&ROOT, &gentle("{}"), NOW).await, Err(ServiceError::Conflict(_))));
    assert_eq!(service.policy(&ROOT).unwrap(), before);
    let forced = service.set_policy(&ROOT, &change("{}"), NOW).await.unwrap();
    let back = service.rollback_policy(&ada.actor, before.version, false, NOW).await.unwrap();
    assert_eq!(back.text, before.text);
    assert!(back.version > forced.version);
    assert!(service.rollback_policy(&ROOT, Version(999), true, NOW).await.is_err());
}

#[tokio::test]
async fn who_cuts_his_own_machines_off_hears_it_in_a_mesh_of_any_size() {
    let (_dir, service) = fresh().await;
    let (zoe, _, _) = join(&service, Role::Admin, "zoe").await;
    let made = service.create_token(&ROOT, &TokenRequest::default(), NOW).await.unwrap();
    let secret = TokenSecret::from_bytes(*made.token.secret.as_bytes());
    let first = service.register(&machine(0, Some(&secret)), NOW).await.unwrap().node;
    let mut model = (*service.model()).clone();
    let sample = model.nodes[&first].clone();
    let owners =
        (0..meshd_policy::MAX_GROUPS as u64).map(|n| format!("user{n:04}")).chain(["zoe".to_owned()]);
    for (n, owner) in (1000u16..).zip(owners) {
        let mut node = (*sample).clone();
        (node.id, node.owner, node.tags) = (NodeId(u64::from(n)), Owner::local(&owner), BTreeSet::new());
        node.addrs.v4 = [100, 64, (n >> 8) as u8, n as u8].into();
        model.nodes.insert(node.id, Arc::new(node));
    }
    // Everybody but her, so that the mesh as a whole does not fall apart.
    let all = "user0000".to_owned() + &(1..300).map(|n| format!("\",\"user{n:04}")).collect::<String>();
    let text = format!(r#"{{"acls":[{{"action":"accept","src":["{all}"],"dst":["*:*"]}}]}}"#);
    let after = meshd_policy::Policy::parse(&text).unwrap();
    let plan = policy::effect(&model, &after);
    assert!(plan.cut && !plan.cuts_most(), "{} of {}", plan.pairs_after, plan.pairs_before);
    let danger = |actor: &Actor| policy::danger(actor, &model, &after, &plan);
    assert!(danger(&zoe.actor).is_some_and(|text| text.contains("your own machines")));
    assert_eq!(danger(&ROOT), None);
}

#[tokio::test]
async fn a_machine_that_asks_gets_one_token_once_and_only_with_its_secret() {
    let (_dir, service) = fresh().await;
    let (ada, _, _) = join(&service, Role::NetworkAdmin, "ada").await;
    let from = HOME.0;
    let asking = service.ask_to_join("laptop\n", "Debian", from, NOW).unwrap();
    let seen = service.join_requests(&ada.actor, NOW).unwrap();
    assert_eq!((seen.len(), seen[0].hostname.as_str()), (1, "laptop"));
    assert!(seen[0].code.len() == 6 && seen[0].code == asking.request.code);
    assert!(matches!(service.outcome_of(&asking.secret, NOW), Outcome::Waiting));
    service.approve_join(&ada.actor, asking.request.id, None, NOW).await.unwrap();
    assert!(matches!(service.outcome_of("guess", NOW), Outcome::Gone));
    let Outcome::Token(text) = service.outcome_of(&asking.secret, NOW) else { panic!("no token") };
    assert!(matches!(service.outcome_of(&asking.secret, NOW), Outcome::Gone), "it is given once");
    let token: meshd_proto::token::JoinToken = text.parse().unwrap();
    let joined = service.register(&machine(1, Some(&token.secret)), NOW).await.unwrap();
    assert_eq!(service.model().nodes[&joined.node].owner, Owner::local("ada"));
    assert!(service.register(&machine(2, Some(&token.secret)), NOW).await.is_err(), "it admits one machine");
}

#[tokio::test]
async fn who_asks_is_bounded_and_forgotten() {
    let (_dir, service) = fresh().await;
    let place = |n: u8| IpAddr::from([198, 51, 100, n]);
    for _ in 0..4 {
        service.ask_to_join("x", "", place(1), NOW).unwrap();
    }
    assert!(service.ask_to_join("x", "", place(1), NOW).is_err(), "four of one place");
    for n in 0..60 {
        service.ask_to_join("x", "", place(n + 2), NOW).unwrap();
    }
    assert!(service.ask_to_join("x", "", place(99), NOW).is_err(), "64 in all");
    assert_eq!(service.asking_count(UnixSeconds(NOW.0 + 900)), 0);
}
