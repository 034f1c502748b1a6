//! The book's tests; `book.rs` is long enough.

use std::collections::HashSet;

use super::*;

const HOUR: u32 = 3600;
const NOW: u32 = 1_800_000_000;

fn rule() -> Durations {
    Durations {
        time: HOUR,
        factor: 2.0,
        max_time: 24 * HOUR,
        window: 7 * 24 * HOUR,
    }
}

fn book() -> Book {
    Book::new(rule(), HOUR)
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn address(number: u32) -> IpNetwork {
    IpNetwork::from(IpAddr::from(number.to_be_bytes()))
}

fn ban(network: IpNetwork, rests_on: &[usize], since: u32, seconds: u32) -> Record {
    Record {
        network,
        client: network.ip(),
        since,
        until: since + seconds,
        count: 1,
        grounds: Arc::new(Grounds {
            zones: vec!["bl.test".into()],
            rests_on: rests_on.to_vec(),
            own: true,
        }),
        hand: None,
    }
}

fn by_hand(network: IpNetwork, since: u32, seconds: u32) -> Record {
    Record {
        count: 0,
        hand: Some(Arc::default()),
        grounds: Arc::default(),
        ..ban(network, &[], since, seconds)
    }
}

#[test]
fn a_repeat_is_a_verdict_after_the_end_and_lasts_longer() {
    let (mut book, network) = (book(), net("10.0.0.1/32"));
    let mut now = NOW;
    for (count, hours) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 24), (7, 24)] {
        let next = book.next(network, now);
        assert_eq!((next.count, next.seconds), (count, hours * HOUR));
        let record = Record {
            count,
            ..ban(network, &[0], now, next.seconds)
        };
        assert!(book.insert(record, now));
        let running = book.next(network, now + 60);
        assert_eq!(
            (running.count, running.seconds, running.running),
            (count, hours * HOUR - 60, true),
            "while it runs there is no repeat"
        );
        now += hours * HOUR;
        if count % 2 == 0 {
            assert_eq!(book.expire(now, 9).len(), 1);
        }
        now += 60;
    }
    let week = now + 7 * 24 * HOUR;
    book.expire(week, 9);
    assert_eq!(book.next(network, week).count, 1, "it is forgiven");
    assert_eq!(book.remembered(), 0);
}

#[test]
fn one_that_runs_longer_stays_and_a_hand_takes_its_place() {
    let (mut book, network) = (book(), net("10.0.0.1/32"));
    assert!(book.insert(ban(network, &[0], NOW, 2 * HOUR), NOW));
    assert!(!book.insert(ban(network, &[0], NOW, HOUR), NOW));
    assert!(book.insert(by_hand(network, NOW + 5, HOUR), NOW + 5));
    let record = book.get(network).unwrap();
    assert_eq!((record.until, record.count), (NOW + 2 * HOUR, 0));
    assert!(record.hand.is_some() && book.len() == 1);
    assert!(book.take_due(NOW + 10 * HOUR, 9).is_empty());
    assert_eq!(book.expire(NOW + 2 * HOUR, 9), [(network, None)]);
    assert_eq!(book.next(network, NOW + 3 * HOUR).count, 1);
}

#[test]
fn long_bans_are_looked_up_every_hour_each_at_its_own_time() {
    let mut book = book();
    for number in 0..3600 {
        book.insert(ban(address(number), &[0], NOW, 10 * HOUR), NOW);
    }
    book.insert(by_hand(net("10.0.0.0/8"), NOW, 10 * HOUR), NOW);
    let mut couriers = ban(net("11.0.0.1/32"), &[], NOW, 10 * HOUR);
    couriers.grounds = Arc::default();
    book.insert(couriers, NOW);
    let mut looked: HashMap<IpNetwork, u32> = HashMap::new();
    let mut busiest = 0;
    for second in 0..10 * HOUR {
        let due = book.take_due(NOW + second, 100);
        busiest = busiest.max(due.len());
        for (network, _) in due {
            *looked.entry(network).or_default() += 1;
        }
    }
    assert_eq!(
        looked.len(),
        3600,
        "neither those by hand nor couriertcpd's"
    );
    assert!(looked.values().all(|times| (8..=10).contains(times)));
    assert!(busiest <= 12, "spread over the hour: {busiest} in a second");
    assert_eq!(book.next_due(), None);
}

#[test]
fn an_ipv6_network_is_looked_up_by_the_client_that_it_was_banned_for() {
    let mut book = book();
    let client = "fd00:1::5".parse().unwrap();
    let record = Record {
        client,
        ..ban(net("fd00:1::/64"), &[0], NOW, 10 * HOUR)
    };
    book.insert(record, NOW);
    let due = book.take_due(NOW + 2 * HOUR, 9);
    assert_eq!(due, [(net("fd00:1::/64"), client)]);
}

#[test]
fn bans_since_the_last_passed_test_are_lifted_once() {
    let mut book = book();
    for (network, rests_on, seconds) in [
        ("10.0.0.1/32", &[0][..], 1),
        ("10.0.0.2/32", &[0], 20),
        ("10.0.0.3/32", &[1], 21),
        ("10.0.0.4/32", &[0, 1], 22),
        ("10.0.0.5/32", &[], 23),
        ("fd00:1::/64", &[0], 24),
    ] {
        book.insert(ban(net(network), rests_on, NOW + seconds, HOUR), NOW);
    }
    let mut lift = |list, ipv6, since: Option<u32>, now| {
        book.lift(list, ipv6, since.map(|since| NOW + since));
        let wrong = std::iter::from_fn(|| book.next_wrong(NOW + now));
        wrong.map(|wrong| wrong.network).collect::<HashSet<_>>()
    };
    let set = |all: &[&str]| all.iter().map(|text| net(text)).collect::<HashSet<_>>();
    assert_eq!(
        lift(0, false, Some(10), 30),
        set(&["10.0.0.2/32", "10.0.0.4/32"])
    );
    assert!(lift(0, false, Some(10), 30).is_empty());
    assert_eq!(lift(0, true, None, 30), set(&["fd00:1::/64"]));
    assert_eq!(lift(1, false, None, 30), set(&["10.0.0.3/32"]));
    assert!(lift(0, false, None, 3602).is_empty(), "it has run out");
}

#[test]
fn one_that_could_not_be_lifted_waits_and_is_the_next() {
    let mut book = book();
    for number in 1..=2 {
        book.insert(ban(address(number), &[0], NOW, HOUR), NOW);
    }
    book.lift(0, false, None);
    let first = book.next_wrong(NOW).unwrap();
    book.put_back(first);
    assert!(book.has_wrong());
    assert_eq!(book.next_wrong(NOW), Some(first));
    assert!(book.next_wrong(NOW).is_some() && !book.has_wrong());
}

#[test]
fn what_was_wrong_counts_for_nothing_and_what_was_right_does() {
    let mut book = book();
    for number in 1..=2 {
        book.insert(ban(address(number), &[0], NOW, HOUR), NOW);
    }
    book.remove(address(1), Why::Wrong, NOW + 9);
    let past = book.remove(address(2), Why::Unlisted, NOW + 9).unwrap();
    assert_eq!((past.count, past.ended), (1, NOW + 9));
    assert_eq!(book.next(address(1), NOW + 10).count, 1);
    assert_eq!(book.next(address(2), NOW + 10).count, 2);
}

#[test]
fn an_address_finds_the_network_that_holds_it_and_the_other_way_round() {
    let mut book = book();
    for network in ["10.0.0.1/32", "10.0.0.0/24", "fd00:1::/64"] {
        book.insert(by_hand(net(network), NOW, HOUR), NOW);
    }
    let touching = |text: &str| {
        let mut found = book.touching(net(text));
        found.sort();
        found
    };
    assert_eq!(
        touching("10.0.0.1/32"),
        [net("10.0.0.0/24"), net("10.0.0.1/32")]
    );
    assert_eq!(touching("10.0.0.0/8").len(), 2);
    assert_eq!(touching("fd00:1::77/128"), [net("fd00:1::/64")]);
    assert!(touching("10.0.1.1/32").is_empty());
}

#[test]
fn beyond_its_bound_those_with_the_least_left_are_forgotten() {
    let mut book = book();
    book.most = 100;
    for number in 0..1000 {
        book.insert(ban(address(number), &[0], NOW, HOUR + number), NOW);
    }
    assert_eq!(book.len(), 100);
    assert!(book.get(address(900)).is_some() && book.get(address(899)).is_none());
    assert!(!book.insert(ban(net("11.0.0.1/32"), &[0], NOW, HOUR), NOW));
    assert_eq!(
        (book.ends.len(), book.due.len() <= 100),
        (100, true),
        "the indexes too"
    );
}

#[test]
fn beyond_its_bound_whose_last_ban_ended_first_begins_anew() {
    let mut book = book();
    let most = u32::try_from(MOST_PAST).unwrap();
    for number in 0..most + 10 {
        let network = IpNetwork::from(IpAddr::from((number + 1).to_be_bytes()));
        book.remember(network, 1, NOW);
    }
    assert_eq!(
        (book.past.len(), book.past_order.len()),
        (MOST_PAST, MOST_PAST)
    );
    let count = |number: u32| {
        let network = IpNetwork::from(IpAddr::from(number.to_be_bytes()));
        book.next(network, NOW).count
    };
    assert_eq!((count(10), count(11)), (1, 2));
}

proptest::proptest! {
    /// Whatever happens in whatever order, the indexes tell of the same bans,
    /// and none is longer than the rule or the hand that made it.
    #[test]
    fn the_indexes_agree(steps in proptest::collection::vec((0_u32..8, 0_u8..6, 0_u32..9000), 1..200)) {
        let mut book = book();
        book.most = 5;
        let mut now = NOW;
        for (number, what, seconds) in steps {
            let network = address(number);
            match what {
                0 | 1 => {
                    let next = book.next(network, now);
                    proptest::prop_assert!(next.seconds <= 24 * HOUR && next.seconds > 0);
                    let record = Record { count: next.count, ..ban(network, &[0], now, next.seconds) };
                    book.insert(record, now);
                }
                2 => { book.insert(by_hand(network, now, seconds + 1), now); }
                3 => { book.remove(network, Why::Unlisted, now); }
                4 => { book.take_due(now, 3); }
                _ => { now += seconds; book.expire(now, 9); }
            }
            proptest::prop_assert!(book.len() <= 5);
            let ends: HashSet<_> = book.bans.iter().map(|(network, ban)| (ban.until, *network)).collect();
            proptest::prop_assert_eq!(ends, book.ends.iter().copied().collect());
            let due: HashSet<_> = book.bans.iter().filter(|(_, ban)| ban.due > 0).map(|(network, ban)| (ban.due, *network)).collect();
            proptest::prop_assert_eq!(due, book.due.iter().copied().collect());
            proptest::prop_assert!(book.hands.keys().all(|network| book.bans.contains_key(network)));
        }
    }
}

#[test]
fn of_who_is_forgotten_nothing_counts_any_longer() {
    let mut book = book();
    let (one, other, six) = (net("10.0.0.1/32"), net("10.0.0.2/32"), net("fd00:1::/64"));
    for network in [one, other, six] {
        book.remember(network, 3, NOW);
    }
    // All in one pass; each counts where it belongs.
    let whom = Whom::new(&[net("10.9.9.9/32"), one, net("fd00:1::77/128")]);
    let mut places = book.forget_past(&whom);
    places.sort_unstable();
    assert_eq!(places, [1, 2]);
    assert_eq!((book.past(one), book.past(six)), (None, None));
    assert_eq!(book.next(one, NOW).count, 1);
    assert_eq!(book.next(other, NOW).count, 4);
    assert_eq!(book.past_order.len(), 1);
    let whom = Whom::new(&[net("10.0.0.0/8")]);
    assert_eq!(book.forget_past(&whom), [0]);
    assert_eq!(book.remembered(), 0);
}
