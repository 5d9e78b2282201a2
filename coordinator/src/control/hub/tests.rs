use super::*;
use crate::service::{Actor, Founding, RecordInput};
use crate::store::{StateDir, Store};

async fn hub(dir: &tempfile::TempDir) -> Arc<Hub> {
    let now = clock::unix_now();
    let mut store = Store::open(StateDir::open(dir.path()).unwrap(), now).await.unwrap();
    let name = "home".parse().unwrap();
    let founding = Founding { name, prefix: None, in_use: vec![], entropy: [[7; 32]; 5] };
    let loaded = founding.run(&mut store, now).await.unwrap();
    Hub::new(Arc::new(Service::new(store, loaded, now)))
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[tokio::test]
async fn views_are_compared_outside_of_the_lock_that_all_sessions_share() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(&dir).await;
    let (first, _) = hub.open(NodeId(1), peer(), None);
    let (second, _) = hub.open(NodeId(2), peer(), None);
    let before = hub.view();
    for seat in [&first, &second] {
        seat.put_back(before.clone());
    }
    let mut compared = 0;
    let step = first.take_step_with(|view, base| {
        assert!(hub.state.try_lock().is_ok(), "others can work meanwhile");
        compared += 1;
        view.change_since(base)
    });
    let again = second.take_step_with(|_, _| unreachable!("it is known already"));
    assert!(Arc::ptr_eq(&step.unwrap().1, &again.unwrap().1));
    assert_eq!(compared, 1);
    assert!(first.take_step().is_none(), "taken once");
}

#[tokio::test]
async fn a_view_that_moves_on_while_a_session_opens_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(&dir).await;
    let (old, model) = (hub.view(), hub.view().model().clone());
    let record = RecordInput {
        name: "a.home.internal".to_owned(),
        kind: None,
        value: "1.1.1.1".to_owned(),
        ttl: None,
    };
    hub.service().add_record(&Actor::LocalRoot, &record, clock::unix_now()).await.unwrap();
    let changes: Vec<Change> = {
        let published = hub.service().subscribe().borrow().clone();
        published.changes_after(model.version).unwrap().cloned().collect()
    };
    let (view, _) = old.next(hub.service().model(), &changes);
    hub.publish(old.clone(), Arc::new(view), &Concern::Nodes(BTreeSet::new()));
    let found = (Standing::Current, None);
    let (seat, standing) = hub.seat(NodeId(1), peer(), found, old.clone());
    assert!(matches!(standing, Standing::Behind));
    let (_, step) = seat.take_step().expect("what happened meanwhile");
    assert!(Arc::ptr_eq(&step.before, &old));
}
