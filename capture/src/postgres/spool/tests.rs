//! Whatever the server streams, what is replayed is what counts.

use proptest::prelude::*;

use super::*;

/// What the server may do: of which transaction (its last digit is the subtransaction), and what.
#[derive(Debug, Clone)]
enum Act {
    Stream(u32, Vec<(u32, u64, Vec<u8>)>),
    VoidPart(u32, u32),
    Void(u32),
    Commit(u32),
    Whole(Vec<u8>),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let xid = (1_u32..4).prop_map(|xid| xid * 10);
    let body = prop::collection::vec(any::<u8>(), 0..20);
    let rows = prop::collection::vec((0_u32..4, any::<u64>(), body.clone()), 0..5);
    let act = prop_oneof![
        4 => (xid.clone(), rows).prop_map(|(xid, rows)| Act::Stream(xid, rows)),
        1 => (xid.clone(), 1_u32..4).prop_map(|(xid, part)| Act::VoidPart(xid, xid + part)),
        1 => xid.clone().prop_map(Act::Void),
        2 => xid.prop_map(Act::Commit),
        1 => body.prop_map(Act::Whole),
    ];
    prop::collection::vec(act, 0..30)
}

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag], parts.concat().as_slice()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_rolled_back_never_comes_and_what_was_committed_comes_whole(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spool");
        let mut spool = Spool::open(&folder, u64::MAX).unwrap();
        let mut model: BTreeMap<u32, Vec<(u32, u64, Vec<u8>)>> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Stream(xid, rows) => {
                    let first = [u8::from(!model.contains_key(&xid))];
                    let known = model.entry(xid).or_default();
                    spool.take(Lsn(0), &message(b'S', &[&xid.to_be_bytes(), &first])).unwrap();
                    for (part, at, body) in rows {
                        spool.take(Lsn(at), &message(b'I', &[&(xid + part).to_be_bytes(), &body])).unwrap();
                        known.push((xid + part, at, message(b'I', &[&body])));
                    }
                    spool.take(Lsn(0), b"E").unwrap();
                }
                Act::VoidPart(xid, part) if model.contains_key(&xid) => {
                    spool.take(Lsn(0), &message(b'A', &[&xid.to_be_bytes(), &part.to_be_bytes()])).unwrap();
                    // The server gives no number twice.
                    model.get_mut(&xid).unwrap().retain(|row| row.0 != part);
                }
                Act::Void(xid) if model.remove(&xid).is_some() => {
                    spool.take(Lsn(0), &message(b'A', &[&xid.to_be_bytes(), &xid.to_be_bytes()])).unwrap();
                }
                Act::Commit(xid) if model.contains_key(&xid) => {
                    let (commit, end, at) = (7_u64.to_be_bytes(), 9_u64.to_be_bytes(), 5_u64.to_be_bytes());
                    let taken = spool.take(Lsn(0), &message(b'c', &[&xid.to_be_bytes(), &[0], &commit, &end, &at])).unwrap();
                    let Taken::Committed(committed) = taken else { panic!("it is committed") };
    let Committed { parts, mut replayed } = *committed;
                    let (mut came, mut payload) = (Vec::new(), Vec::new());
                    while let Some(start) = replayed.next(&mut payload).unwrap() {
                        came.push((start.0, payload.clone()));
                    }
                    let void = replayed.void.clone();
                    prop_assert!(parts.iter().all(|part| !void.contains(part) && *part != xid));
                    let mut wanted = vec![(7, message(b'B', &[&commit, &at, &xid.to_be_bytes()]))];
                    let rows = model.remove(&xid).unwrap();
                    wanted.extend(rows.into_iter().filter(|row| !void.contains(&row.0)).map(|(_, at, body)| (at, body)));
                    wanted.push((7, message(b'C', &[&[0], &commit, &end, &at])));
                    prop_assert_eq!(came, wanted);
                }
                Act::Whole(body) => {
                    let taken = spool.take(Lsn(0), &message(b'I', &[&body])).unwrap();
                    prop_assert!(matches!(taken, Taken::Not));
                }
                _ => {}
            }
        }
        prop_assert_eq!(std::fs::read_dir(&folder).unwrap().count(), model.len(), "what has ended leaves no file");
        drop(spool);
        prop_assert!(!folder.exists());
    }

    #[test]
    fn no_bytes_of_a_server_make_it_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&dir.path().join("spool"), 10_000).unwrap();
        for mut message in messages {
            if let Some(tag) = message.first_mut() {
                *tag = [b'S', b'E', b'c', b'A', b'I', b'O', *tag][usize::from(*tag % 7)];
            }
            if let Ok(Taken::Committed(mut committed)) = spool.take(Lsn(0), &message) {
                while committed.replayed.next(&mut Vec::new()).unwrap().is_some() {}
            }
        }
    }
}

#[test]
fn no_more_is_kept_than_is_allowed_and_what_was_changed_on_the_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    let mut spool = Spool::open(&folder, 200).unwrap();
    spool.take(Lsn(0), &message(b'S', &[&[0, 0, 0, 9], &[1]])).unwrap();
    let row = message(b'I', &[&[0, 0, 0, 9], &[7; 100]]);
    spool.take(Lsn(0), &row).unwrap();
    assert_eq!(spool.bytes(), 24 + 101);
    assert!(matches!(spool.take(Lsn(0), &row), Err(Fault::Full)));
    assert!(matches!(ensure_room(&folder, u64::MAX), Err(Fault::NoRoom(_))));
    spool.take(Lsn(0), b"E").unwrap();
    let (file, commit) = (folder.join("9"), message(b'c', &[&[0, 0, 0, 9], &[0; 25]]));
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let Taken::Committed(mut committed) = spool.take(Lsn(0), &commit).unwrap() else { panic!("it is committed") };
    let mut payload = Vec::new();
    assert!(committed.replayed.next(&mut payload).unwrap().is_some(), "it begins");
    assert!(matches!(committed.replayed.next(&mut payload), Err(Fault::File("read", ..))));
}
