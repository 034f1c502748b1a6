//! What nameservers can do wrong, and what comes of it: nobody is convicted on
//! it, and nobody waits twice.
#![allow(missing_docs, clippy::unwrap_used)]

mod nameserver;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nameserver::{Does, Server, Whole};
use rblfilter::config;
use rblfilter::daemon::NeverBan;
use rblfilter::dnsbl::{
    Evidence, Family, Level, Listing, Lists, News, Notice, Reason, Saying, Score, Unknown,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(10);
const CLIENT: &str = "203.0.113.9";

/// Lists of this configuration through this server, kept tested.
fn lists(servers: &[&Server], toml: &str) -> (Arc<Lists>, UnboundedReceiver<Notice>) {
    let nameservers: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address))
        .collect();
    let text = format!(
        "lookup.limit = \"1s\"\nlookup.query-limit = \"300ms\"\nlookup.nameservers = [{}]\nblock-variables = []\n{toml}",
        nameservers.join(",")
    );
    let config = config::parse(&text).unwrap();
    let (lists, notices) = Lists::new(
        config.zones,
        config.resolver,
        config.cache,
        config.thresholds,
    );
    tokio::spawn(Arc::clone(&lists).keep_tested());
    (lists, notices)
}

const ONE: &str = "[[dnsbl]]\nzone = \"bl.test\"\n";

fn level(evidence: &Evidence) -> Level {
    let config = config::parse("").unwrap();
    evidence.level(&config.thresholds)
}

async fn ask(lists: &Arc<Lists>, client: &str) -> (Evidence, Duration) {
    let begun = Instant::now();
    let asked = lists.ask(client.parse().unwrap(), vec![]);
    let evidence = timeout(LIMIT, asked).await.unwrap();
    (evidence, begun.elapsed())
}

/// What is held against a client who is known to be good.
async fn ask_good(lists: &Arc<Lists>, client: &str) -> Evidence {
    let asked = lists.ask_with_doubt(client.parse().unwrap(), vec![], |_| true);
    let evidence = timeout(LIMIT, asked).await.unwrap();
    // At the limit it passes.
    evidence.unwrap_or_default()
}

/// Two seconds after a test another is worth while.
async fn test_grows_old(lists: &Lists) {
    let passed = lists.last_passed(0, CLIENT.parse().unwrap()).unwrap();
    sleep((passed + Duration::from_millis(2100)).saturating_duration_since(Instant::now())).await;
}

async fn news(notices: &mut UnboundedReceiver<Notice>) -> News {
    loop {
        let news = timeout(LIMIT, notices.recv()).await.unwrap().unwrap().news;
        if news != News::FirstPassed {
            return news;
        }
    }
}

fn nothing_is_new(notices: &mut UnboundedReceiver<Notice>) -> bool {
    std::iter::from_fn(|| notices.try_recv().ok()).all(|notice| notice.news == News::FirstPassed)
}

/// The next news of IPv4.
async fn news4(notices: &mut UnboundedReceiver<Notice>) -> News {
    loop {
        match news(notices).await {
            News::Opened(Family::V6, ..) | News::Closed(Family::V6) => {}
            news => return news,
        }
    }
}

#[tokio::test]
async fn answers_that_are_right_convict_and_no_others_do() {
    for (does, expected) in [
        (Does::Lists, Level::Ban),
        (Does::Truncates, Level::Ban),
        (Does::Cname, Level::Ban),
        (Does::Huge, Level::Ban),
        (Does::Ttl(0), Level::Ban),
        (Does::Ttl(1 << 31), Level::Ban),
        (Does::Delays(200), Level::Ban),
        (Does::ListsNobody, Level::Pass),
        (Does::NoSoa, Level::Pass),
        (Does::WrongId, Level::Pass),
        (Does::WrongOwner, Level::Pass),
        (Does::Refuses, Level::Pass),
        (Does::ServFail, Level::Pass),
        (Does::Silent, Level::Pass),
        (Does::ErrorCode([127, 255, 255, 254]), Level::Pass),
        (Does::ErrorCode([127, 0, 0, 1]), Level::Pass),
        (Does::ErrorCode([198, 51, 100, 1]), Level::Pass),
        (Does::ErrorCode([127, 0, 0, 2]), Level::Ban),
    ] {
        let server = Server::start(does).await;
        let (lists, _notices) = lists(&[&server], ONE);
        let (evidence, took) = ask(&lists, CLIENT).await;
        assert_eq!(level(&evidence), expected, "{does:?}: {evidence:?}");
        assert!(took < Duration::from_millis(1300), "{does:?}: {took:?}");
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_kept() {
    for does in [
        Does::Lists,
        Does::NoSoa,
        Does::Ttl(0),
        Does::Ttl(1 << 31),
        Does::ListsNobody,
    ] {
        let server = Server::start(does).await;
        let (lists, _notices) = lists(&[&server], ONE);
        let first = ask(&lists, CLIENT).await.0;
        for _ in 0..10 {
            assert_eq!(level(&ask(&lists, CLIENT).await.0), level(&first));
        }
        // As IPv4, however it is written.
        let mapped = ask(&lists, "::ffff:203.0.113.9").await.0;
        assert_eq!(level(&mapped), level(&first));
        assert_eq!(server.queries(), 1, "{does:?}");
        let said = said(&lists);
        assert_eq!((said.asked, said.hits()), (1, 11), "{does:?}: {said:?}");
        let named = if level(&first) == Level::Ban { 12 } else { 0 };
        assert_eq!(said.listings(), named, "{does:?}: {said:?}");
        assert_eq!((said.latency.count(), said.failures()), (1, 0), "{said:?}");
    }
}

/// What the first list has said so far.
fn said(lists: &Lists) -> Saying {
    lists.said().next().unwrap().1.so_far()
}

#[tokio::test]
async fn who_asks_at_the_same_time_gets_the_same_answer() {
    let server = Server::start(Does::Delays(100)).await;
    let (lists, _notices) = lists(&[&server], ONE);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let lists = Arc::clone(&lists);
        asking.spawn(async move { ask(&lists, CLIENT).await.0 });
    }
    let all = asking.join_all().await;
    assert!(all.iter().all(|evidence| level(evidence) == Level::Ban));
    assert_eq!(server.queries(), 1);
}

#[tokio::test]
async fn no_more_queries_are_open_than_may_be() {
    let server = Server::start(Does::Delays(20)).await;
    let (lists, _notices) = lists(&[&server], &format!("lookup.in-flight = 8\n{ONE}"));
    ask(&lists, CLIENT).await;
    server.most_open.store(0, SeqCst);
    let mut asking = tokio::task::JoinSet::new();
    for host in 0..100 {
        let lists = Arc::clone(&lists);
        asking.spawn(async move { ask(&lists, &format!("203.0.113.{host}")).await.0 });
    }
    let all = asking.join_all().await;
    assert!(all.iter().all(|evidence| level(evidence) == Level::Ban));
    assert!(server.most_open.load(SeqCst) <= 8, "{:?}", server.most_open);
}

/// The list dies: one message waits, no other does, and it comes back by itself.
#[tokio::test]
async fn a_dead_list_is_waited_for_once() {
    let server = Server::start(Does::Lists).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    assert_eq!(level(&ask(&lists, CLIENT).await.0), Level::Ban);
    server.now(Does::Everything(Whole::Silent));
    let (evidence, took) = ask(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Pass);
    assert!(took >= Duration::from_millis(500), "{took:?}");
    for host in 11..60 {
        let (evidence, took) = ask(&lists, &format!("203.0.113.{host}")).await;
        assert!(
            matches!(evidence.unknown[..], [(0, Unknown::Down)]),
            "{evidence:?}"
        );
        assert!(took < Duration::from_millis(50), "{host}: {took:?}");
    }
    assert!(matches!(
        news4(&mut notices).await,
        News::Opened(Family::V4, Reason::Test(_), Some(_))
    ));
    server.now(Does::Lists);
    assert_eq!(news4(&mut notices).await, News::Closed(Family::V4));
    assert_eq!(level(&ask(&lists, "203.0.113.70").await.0), Level::Ban);
    let said = said(&lists);
    assert_eq!((said.listed, said.timeouts), (2, 1), "{said:?}");
    assert_eq!((said.latency.count(), said.errors), (2, 0), "{said:?}");
}

#[tokio::test]
async fn a_late_answer_serves_the_next() {
    let server = Server::start(Does::Delays(260)).await;
    let (lists, _notices) = lists(&[&server], ONE);
    ask(&lists, "203.0.113.1").await;
    // Its asker gives up; the question goes on.
    let early = timeout(
        Duration::from_millis(50),
        lists.ask(CLIENT.parse().unwrap(), vec![]),
    );
    assert!(early.await.is_err());
    let queries = server.queries();
    let (evidence, _) = ask(&lists, CLIENT).await;
    assert_eq!(level(&evidence), Level::Ban);
    assert_eq!(server.queries(), queries, "not asked again");
}

#[tokio::test]
async fn one_dead_list_of_three_does_not_hold_up_the_others_sentence() {
    let server = Server::start(Does::OneIsDead).await;
    let zone =
        |name: &str, score: u8| format!("[[dnsbl]]\nzone = \"{name}.test\"\nscore = {score}\n");
    // The dead one could not change it: nobody waits, not even the first.
    let toml = [zone("a", 10), zone("b", 10), zone("c", 10)].concat();
    let (strong, _notices) = lists(&[&server], &toml);
    for host in 0..5 {
        let (evidence, took) = ask(&strong, &format!("203.0.113.{host}")).await;
        assert_eq!(level(&evidence), Level::Ban);
        assert!(took < Duration::from_millis(300), "{took:?}");
    }
    // It could: the first waits for it, and no other.
    let toml = [zone("a", 4), zone("b", 4), zone("c", 4)].concat();
    let (weak, _notices) = lists(&[&server], &toml);
    for host in 0..5 {
        let (evidence, took) = ask(&weak, &format!("203.0.113.{host}")).await;
        assert_eq!(level(&evidence), Level::Reject);
        let most = if host == 0 { 1300 } else { 100 };
        assert!(took < Duration::from_millis(most), "{host}: {took:?}");
    }
}

/// It lists a client whose mail was accepted before: it is tested before that
/// is believed, and found out without one good message lost.
#[tokio::test]
async fn a_good_client_that_is_suddenly_listed_has_the_list_tested() {
    let server = Server::start(Does::ListsNobody).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    ask(&lists, CLIENT).await;
    test_grows_old(&lists).await;
    server.now(Does::Everything(Whole::ListsTheWorld));
    let (evidence, _) = ask(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Ban, "what the list says");
    let evidence = ask_good(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Pass, "{evidence:?}");
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
    // Nor is anybody else convicted any more.
    assert_eq!(level(&ask(&lists, "203.0.113.12").await.0), Level::Pass);
}

/// Two good clients have its answer, and wait for an allow list; the first to
/// end has the list tested, and the second is not convicted meanwhile.
#[tokio::test]
async fn two_good_clients_at_once_are_both_spared() {
    let server = Server::start(Does::ListsNobody).await;
    let toml = format!("{ONE}[[dnswl]]\nzone = \"wl.test\"\n");
    let (lists, _notices) = lists(&[&server], &toml);
    ask(&lists, CLIENT).await;
    test_grows_old(&lists).await;
    server.now(Does::WorldBesideLateAllowList);
    let first = ask_good(&lists, "203.0.113.10");
    let second = async {
        sleep(Duration::from_millis(30)).await;
        ask_good(&lists, "203.0.113.11").await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(level(&first), Level::Pass, "{first:?}");
    assert_eq!(level(&second), Level::Pass, "{second:?}");
}

/// The listing is in the cache, as another session of the client asked.
#[tokio::test]
async fn a_good_client_is_spared_whoever_asked_for_it() {
    let server = Server::start(Does::ListsNobody).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    ask(&lists, CLIENT).await;
    test_grows_old(&lists).await;
    server.now(Does::Everything(Whole::ListsTheWorld));
    let (evidence, _) = ask(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Ban, "by the first session");
    let evidence = ask_good(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Pass, "{evidence:?}");
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
}

/// It answers before its test fails, and the sentence is passed after that.
#[tokio::test]
async fn an_answer_convicts_nobody_once_its_list_is_down() {
    let server = Server::start(Does::OneIsSlow).await;
    let toml =
        "[[dnsbl]]\nzone = \"bl.test\"\nscore = 5\n[[dnsbl]]\nzone = \"slow.test\"\nscore = 4\n";
    let toml = format!("score.reject = 5\nscore.ban = 9\n{toml}");
    let (lists, mut notices) = lists(&[&server], &toml);
    let (evidence, _) = ask(&lists, CLIENT).await;
    assert_eq!(evidence.listings.len(), 2, "{evidence:?}");
    let asking = {
        let lists = Arc::clone(&lists);
        tokio::spawn(async move { ask(&lists, "203.0.113.10").await.0 })
    };
    let queries = server.queries();
    let asked = async {
        while server.queries() < queries + 2 {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(50)).await;
    };
    timeout(LIMIT, asked).await.unwrap();
    server.now(Does::OneLiesOneIsSlow);
    lists.test_now();
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
    let evidence = asking.await.unwrap();
    assert!(
        matches!(evidence.unknown[..], [(0, Unknown::Down)]),
        "{evidence:?}"
    );
    assert_eq!(evidence.tally.against, 1, "{evidence:?}");
}

/// A resolver between answers the list's tests from its cache, while the list
/// answers nobody.
#[tokio::test]
async fn a_dead_list_whose_tests_are_passed_is_waited_for_once() {
    let server = Server::start(Does::Silent).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    for host in 0..15 {
        let (evidence, took) = ask(&lists, &format!("203.0.113.{host}")).await;
        assert_eq!(level(&evidence), Level::Pass);
        let most = if host == 0 { 1300 } else { 100 };
        assert!(took < Duration::from_millis(most), "{host}: {took:?}");
        // Its test is passed meanwhile.
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        server.queries() < 15,
        "{}: tried, not asked",
        server.queries()
    );
    assert!(nothing_is_new(&mut notices));
    // It answers one, and is asked as before.
    server.now(Does::Lists);
    let mut host = 100;
    let back = async {
        while level(&ask(&lists, &format!("203.0.113.{host}")).await.0) != Level::Ban {
            host += 1;
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, back).await.unwrap();
}

/// Its question waits behind those of a dead list: that is not its fault.
#[tokio::test]
async fn a_list_that_was_not_asked_is_not_suspected() {
    let server = Server::start(Does::OneIsDead).await;
    let toml = "lookup.in-flight = 1\n[[dnsbl]]\nzone = \"x.b.test\"\nself-test = false\n[[dnsbl]]\nzone = \"y.b.test\"\nself-test = false\n[[dnsbl]]\nzone = \"bl.test\"\n";
    let (lists, _notices) = lists(&[&server], toml);
    let client: IpAddr = CLIENT.parse().unwrap();
    let tested = async {
        while lists.last_passed(2, client).is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, tested).await.unwrap();
    let passed = lists.last_passed(2, client);
    let (evidence, _) = ask(&lists, CLIENT).await;
    assert!(
        evidence.unknown.contains(&(2, Unknown::Busy)),
        "{evidence:?}"
    );
    // Nor is it tested for that.
    sleep(Duration::from_millis(200)).await;
    assert_eq!(lists.last_passed(2, client), passed);
}

/// From one moment to the next it lists everybody; what the self-test finds.
#[tokio::test]
async fn a_list_that_lists_the_world_convicts_nobody_from_its_test_on() {
    let server = Server::start(Does::ListsNobody).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    assert_eq!(level(&ask(&lists, CLIENT).await.0), Level::Pass);
    server.now(Does::Everything(Whole::ListsTheWorld));
    // Believed for now: nothing shows it yet.
    assert_eq!(level(&ask(&lists, "203.0.113.10").await.0), Level::Ban);
    lists.test_now();
    let News::Opened(Family::V4, reason, Some(_)) = news4(&mut notices).await else {
        panic!("it opens, and tells when it was last right");
    };
    assert!(
        reason.to_string().contains("may list the whole world"),
        "{reason}"
    );
    for client in [CLIENT, "203.0.113.10", "203.0.113.11"] {
        assert_eq!(level(&ask(&lists, client).await.0), Level::Pass, "{client}");
    }
    // What it said meanwhile is forgotten when it is right again.
    server.now(Does::ListsNobody);
    assert_eq!(news4(&mut notices).await, News::Closed(Family::V4));
    assert_eq!(level(&ask(&lists, "203.0.113.10").await.0), Level::Pass);
}

#[tokio::test]
async fn a_list_that_is_wrong_from_the_start_convicts_nobody() {
    for (whole, reason) in [
        (Whole::ListsTheWorld, "may list the whole world"),
        (Whole::Nxdomain, "does not list 127.0.0.2"),
        (Whole::Refuses, "REFUSED"),
        (Whole::Silent, "no answer in time"),
        (Whole::Answers([198, 51, 100, 1]), "an error and no listing"),
        (Whole::Answers([127, 255, 255, 254]), "use one of your own"),
    ] {
        let server = Server::start(Does::Everything(whole)).await;
        let (lists, mut notices) = lists(&[&server], ONE);
        let (evidence, took) = ask(&lists, CLIENT).await;
        assert_eq!(level(&evidence), Level::Pass, "{whole:?}");
        assert!(took < Duration::from_millis(1300), "{whole:?}: {took:?}");
        let News::Opened(Family::V4, why, None) = news4(&mut notices).await else {
            panic!("{whole:?}");
        };
        assert!(why.to_string().contains(reason), "{whole:?}: {why}");
    }
}

#[tokio::test]
async fn nobody_is_convicted_while_the_first_test_is_out() {
    let server = Server::start(Does::HidesThatItListsTheWorld).await;
    let (lists, _notices) = lists(&[&server], ONE);
    let (evidence, took) = ask(&lists, CLIENT).await;
    assert_eq!(level(&evidence), Level::Pass, "{evidence:?}");
    assert!(took >= Duration::from_millis(200), "waited for: {took:?}");
}

#[tokio::test]
async fn an_answer_that_comes_after_the_list_failed_convicts_nobody() {
    let server = Server::start(Does::Delays(250)).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    assert_eq!(level(&ask(&lists, CLIENT).await.0), Level::Ban);
    let asking = {
        let lists = Arc::clone(&lists);
        tokio::spawn(async move { ask(&lists, "203.0.113.10").await.0 })
    };
    let queries = server.queries();
    let asked = async {
        while server.queries() == queries {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, asked).await.unwrap();
    server.now(Does::Everything(Whole::ListsTheWorld));
    lists.test_now();
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
    let evidence = asking.await.unwrap();
    assert_eq!(level(&evidence), Level::Pass, "{evidence:?}");
}

/// A list that breaks the rule on purpose is believed, and so is one that has
/// no test entry for IPv6, of IPv4 clients.
#[tokio::test]
async fn self_tests_can_be_switched_off() {
    let server = Server::start(Does::Everything(Whole::ListsTheWorld)).await;
    let (lists, mut notices) = lists(&[&server], &format!("{ONE}self-test = false\n"));
    assert_eq!(level(&ask(&lists, CLIENT).await.0), Level::Ban);
    assert!(nothing_is_new(&mut notices));
}

#[tokio::test]
async fn an_allow_list_that_fails_vouches_for_nobody() {
    let toml = format!("{ONE}[[dnswl]]\nzone = \"wl.test\"\n");
    let server = Server::start(Does::Lists).await;
    let (both, _notices) = lists(&[&server], &toml);
    let (evidence, _) = ask(&both, CLIENT).await;
    assert!(evidence.tally.vouched, "{evidence:?}");
    assert_eq!(level(&evidence), Level::Pass);
    let all = Server::start(Does::AllowListVouchesForAll).await;
    let (lists_all, _notices) = lists(&[&all], &toml);
    let (evidence, _) = ask(&lists_all, CLIENT).await;
    assert_eq!(level(&evidence), Level::Ban, "{evidence:?}");
    // dnswl.org's other answer to over-users.
    let over = Server::start(Does::AllowListErrs).await;
    let (lists, _notices) = lists(&[&over], &toml);
    let (evidence, _) = ask(&lists, CLIENT).await;
    assert_eq!(level(&evidence), Level::Ban, "{evidence:?}");
    assert!(matches!(evidence.unknown[..], [(1, Unknown::ErrorCode(_))]));
}

/// It might have averted the ban; once it is down, it speaks for nobody.
#[tokio::test]
async fn an_allow_list_that_does_not_answer_makes_no_ban() {
    let server = Server::start(Does::AllowListIsSilent).await;
    let toml = format!("{ONE}[[dnswl]]\nzone = \"wl.test\"\n");
    let (lists, _notices) = lists(&[&server], &toml);
    let (evidence, _) = ask(&lists, CLIENT).await;
    assert_eq!(level(&evidence), Level::Reject, "{evidence:?}");
    let (evidence, _) = ask(&lists, "203.0.113.10").await;
    assert_eq!(level(&evidence), Level::Ban, "{evidence:?}");
}

/// couriertcpd asked the same list: that rests on what ours is worth.
#[tokio::test]
async fn couriertcpds_word_of_a_list_that_is_down_is_not_believed() {
    for (does, list, expected) in [
        (Does::Lists, Some(0), Level::Ban),
        (Does::ListsNobody, Some(0), Level::Ban),
        (Does::Everything(Whole::ListsTheWorld), Some(0), Level::Pass),
        (Does::Everything(Whole::ListsTheWorld), None, Level::Ban),
    ] {
        let server = Server::start(does).await;
        let (lists, _notices) = lists(&[&server], ONE);
        ask(&lists, "203.0.113.200").await;
        let courier = || {
            vec![Listing {
                zone: "bl.test".into(),
                code: None,
                lookup_url: String::new(),
                message: None,
                score: Score::from_points(10.0).unwrap(),
                list,
            }]
        };
        let evidence = lists.ask(CLIENT.parse().unwrap(), courier()).await;
        assert_eq!(
            level(&evidence),
            expected,
            "{does:?}, {list:?}: {evidence:?}"
        );
        assert!(evidence.tally.against <= 1, "{evidence:?}");
        // One that is not asked for it: it stands for itself.
        let evidence = lists.ask("10.0.0.1".parse().unwrap(), courier()).await;
        assert_eq!(level(&evidence), Level::Ban);
        assert_eq!(evidence.listings[0].list, None);
    }
}

#[tokio::test]
async fn a_budget_ends_and_is_warned_of() {
    let server = Server::start(Does::Lists).await;
    let toml = format!("{ONE}ipv6 = false\nmax-queries-per-day = 10\n");
    let (lists, mut notices) = lists(&[&server], &toml);
    let mut banned = 0;
    for host in 0..20 {
        let (evidence, _) = ask(&lists, &format!("203.0.113.{host}")).await;
        banned += usize::from(level(&evidence) == Level::Ban);
        if level(&evidence) == Level::Pass {
            assert!(
                matches!(evidence.unknown[..], [(0, Unknown::Budget)]),
                "{evidence:?}"
            );
        }
    }
    // Two were for its self-test.
    assert_eq!(banned, 8);
    assert_eq!(news(&mut notices).await, News::BudgetLow);
    assert_eq!(news(&mut notices).await, News::BudgetUsedUp);
}

#[tokio::test]
async fn private_addresses_are_not_looked_up() {
    let server = Server::start(Does::Lists).await;
    let (shut, _notices) = lists(&[&server], ONE);
    for client in ["127.66.1.2", "10.0.0.1", "fd00:66::1"] {
        assert_eq!(level(&ask(&shut, client).await.0), Level::Pass);
    }
    assert_eq!(server.queries(), 0);
    let toml = format!("lookup.query-non-global = true\n{ONE}");
    let (open, _notices) = lists(&[&server], &toml);
    assert_eq!(level(&ask(&open, "127.66.1.2").await.0), Level::Ban);
}

#[tokio::test]
async fn what_is_known_outlives_a_restart() {
    let path = std::env::temp_dir().join(format!("rblfilter-cache-{}", std::process::id()));
    let server = Server::start(Does::Lists).await;
    let (before, _notices) = lists(&[&server], ONE);
    for host in 0..20 {
        ask(&before, &format!("203.0.113.{host}")).await;
    }
    assert_eq!(before.write(&path).unwrap(), 0, "newer than its last test");
    // Times of answers are whole seconds, rounded up.
    sleep(Duration::from_millis(1100)).await;
    before.confirm(LIMIT).await;
    assert_eq!(before.write(&path).unwrap(), 20);
    let (after, _notices) = lists(&[&server], ONE);
    assert_eq!(after.read(&path).unwrap(), 20);
    let asked = server.queries();
    for host in 0..20 {
        let (evidence, _) = ask(&after, &format!("203.0.113.{host}")).await;
        assert_eq!(level(&evidence), Level::Ban);
    }
    assert_eq!(server.queries(), asked);
    // Another configuration's answers are not this one's.
    let (other, _notices) = lists(&[&server], &format!("{ONE}score = 7\n"));
    other.read(&path).unwrap();
    ask(&other, "203.0.113.1").await;
    assert_eq!(server.queries(), asked + 1);
    // Damage.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (damaged, _notices) = lists(&[&server], ONE);
    assert!(damaged.read(&path).is_err());
    std::fs::write(&path, &bytes[..70]).unwrap();
    assert!(damaged.read(&path).is_err());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(damaged.read(&path).unwrap(), 0);
}

/// What a list that lists the world said does not come back as what it said in
/// better days.
#[tokio::test]
async fn no_lie_outlives_a_restart() {
    let path = std::env::temp_dir().join(format!("rblfilter-lies-{}", std::process::id()));
    let server = Server::start(Does::ListsNobody).await;
    let (before, mut notices) = lists(&[&server], ONE);
    ask(&before, CLIENT).await;
    server.now(Does::Everything(Whole::ListsTheWorld));
    ask(&before, "203.0.113.10").await;
    // Not found out yet.
    assert_eq!(before.write(&path).unwrap(), 1);
    before.test_now();
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
    before.write(&path).unwrap();
    server.now(Does::ListsNobody);
    let (after, _notices) = lists(&[&server], ONE);
    after.read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for client in [CLIENT, "203.0.113.10"] {
        assert_eq!(level(&ask(&after, client).await.0), Level::Pass);
    }
}

/// Waits until list 0 has passed a test after all that it has said until now.
async fn grow_old(lists: &Lists, client: IpAddr) {
    // Times of answers are whole seconds, rounded up.
    let got = Instant::now();
    let later = async {
        while lists
            .last_passed(0, client)
            .is_none_or(|at| at < got + Duration::from_millis(2100))
        {
            lists.test_now();
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, later).await.unwrap();
}

/// What a list said before it last passed its test stands in while it is down.
#[tokio::test]
async fn an_answer_from_better_days_serves_while_a_list_is_down() {
    let server = Server::start(Does::Lists).await;
    let (lists, mut notices) = lists(&[&server], ONE);
    let client: IpAddr = CLIENT.parse().unwrap();
    ask(&lists, CLIENT).await;
    grow_old(&lists, client).await;
    ask(&lists, "203.0.113.10").await;
    server.now(Does::Everything(Whole::Silent));
    lists.test_now();
    assert!(matches!(news4(&mut notices).await, News::Opened(..)));
    assert_eq!(level(&ask(&lists, CLIENT).await.0), Level::Ban);
    let since = ask(&lists, "203.0.113.10").await.0;
    assert_eq!(level(&since), Level::Pass, "got since the last passed test");
    let counts = lists.counts();
    assert_eq!((counts.hits, counts.misses), (1, 2), "{counts:?}");
}

#[tokio::test]
async fn a_dead_nameserver_beside_a_live_one_costs_nobody_a_verdict() {
    let dead = Server::start(Does::Everything(Whole::Silent)).await;
    let live = Server::start(Does::Lists).await;
    let (lists, _notices) = lists(&[&dead, &live], ONE);
    for host in 0..10 {
        let client: IpAddr = format!("203.0.113.{host}").parse().unwrap();
        let (evidence, _) = ask(&lists, &client.to_string()).await;
        assert_eq!(level(&evidence), Level::Ban, "{host}: {evidence:?}");
    }
}

/// The domains are read at the same time; while one is not, nobody is banned.
#[tokio::test]
async fn spf_records_are_read_together_and_told_of() {
    let server = Server::start(Does::Everything(Whole::Silent)).await;
    let (lists, _notices) = lists(&[&server], ONE);
    let text = "never-ban.spf = [\"a.test\", \"b.test\", \"c.test\", \"d.test\"]";
    let never_ban = NeverBan::new(&config::parse(text).unwrap().never_ban);
    assert!(never_ban.unread().is_some());
    let begun = Instant::now();
    let failed = never_ban.read_once(lists.resolver()).await;
    assert_eq!(failed.len(), 4);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{begun:?}");
    assert!(never_ban.unread().is_some());
    server.now(Does::Texts("v=spf1 ip4:203.0.113.0/24 -all"));
    assert!(never_ban.read_once(lists.resolver()).await.is_empty());
    assert!(never_ban.unread().is_none());
    assert!(never_ban.contains(CLIENT.parse().unwrap()));
    // A record that was read and is wrong names nobody, and holds nothing up.
    server.now(Does::Texts("v=spf1 ip4:x -all"));
    let wrong = NeverBan::new(&config::parse(text).unwrap().never_ban);
    assert_eq!(wrong.read_once(lists.resolver()).await.len(), 4);
    assert!(wrong.unread().is_none());
    let none = NeverBan::new(&config::parse("").unwrap().never_ban);
    assert!(none.unread().is_none(), "there is nothing to read");
}

/// Some lists echo the name that they were asked for.
#[tokio::test]
async fn a_lists_text_shows_no_key() {
    let key = "abcdefghijklmnopqrstuvwxyz";
    let server = Server::start(Does::Texts(
        "see 9.113.0.203.abcdefghijklmnopqrstuvwxyz.bl.test",
    ))
    .await;
    let toml = format!("[[dnsbl]]\nzone = \"{key}.bl.test\"\n");
    let (lists, _notices) = lists(&[&server], &toml);
    let text = lists.text(0, CLIENT.parse().unwrap()).await;
    assert!(text.starts_with("see ") && !text.contains(key), "{text}");
}

/// So that what is said of the resolver at the start is taken back.
#[tokio::test]
async fn the_first_test_that_is_passed_is_told_of_once() {
    let server = Server::start(Does::Lists).await;
    let (lists, mut notices) = lists(&[&server], &format!("{ONE}ipv6 = false\n"));
    ask(&lists, CLIENT).await;
    grow_old(&lists, CLIENT.parse().unwrap()).await;
    let all: Vec<News> = std::iter::from_fn(|| notices.try_recv().ok())
        .map(|notice| notice.news)
        .collect();
    assert_eq!(all, [News::FirstPassed]);
}
