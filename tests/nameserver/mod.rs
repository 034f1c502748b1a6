//! A nameserver that does wrong what it is told to do wrong.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

/// The code by which its lists name everybody.
const CODE: [u8; 4] = [127, 0, 0, 2];

/// What the server does about a query for a client (the test entries are
/// answered as they should be, unless it says `Everything`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Lists,
    ListsNobody,
    /// Truncated over UDP, whole over TCP.
    Truncates,
    WrongId,
    /// The answer's record is another name's.
    WrongOwner,
    Cname,
    Huge,
    NoSoa,
    Ttl(u32),
    Refuses,
    ServFail,
    Delays(u64),
    Silent,
    ErrorCode([u8; 4]),
    /// Lists the world, and is slow to answer for the test entries.
    HidesThatItListsTheWorld,
    /// bl.test lists, wl.test speaks for everybody, as for over-users.
    AllowListVouchesForAll,
    /// b.test is silent, the others list.
    OneIsDead,
    /// bl.test lists, wl.test says that it is asked too often.
    AllowListErrs,
    /// bl.test lists, wl.test passes its test and answers no client's question.
    AllowListIsSilent,
    /// bl.test lists the world, wl.test answers late.
    WorldBesideLateAllowList,
    /// bl.test lists, slow.test lists too, but late.
    OneIsSlow,
    /// bl.test fails its test, slow.test lists late.
    OneLiesOneIsSlow,
    Everything(Whole),
    /// Tells this text of every name.
    Texts(&'static str),
}

/// What it does about all queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    ListsTheWorld,
    Nxdomain,
    Refuses,
    Silent,
    Answers([u8; 4]),
}

pub struct Server {
    pub address: SocketAddr,
    does: Arc<Mutex<Does>>,
    pub queries: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    pub most_open: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(does: Does) -> Self {
        // The same port for both; another process may have taken one of them.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let server = Self {
            address: udp.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            queries: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
        };
        let (does, queries) = (Arc::clone(&server.does), Arc::clone(&server.queries));
        let (open, most) = (Arc::clone(&server.open), Arc::clone(&server.most_open));
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok((len, peer)) = udp.recv_from(&mut bytes).await {
                let query = Message::from_vec(&bytes[..len]).unwrap();
                if !is_test(&query.queries[0]) {
                    queries.fetch_add(1, SeqCst);
                }
                most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                let (udp, does, open) =
                    (Arc::clone(&udp), *does.lock().unwrap(), Arc::clone(&open));
                tokio::spawn(async move {
                    if let Does::Delays(milliseconds) = does
                        && !is_test(&query.queries[0])
                    {
                        sleep(Duration::from_millis(milliseconds)).await;
                    }
                    let name = query.queries[0].name().to_ascii();
                    let late = name.ends_with(".slow.test.")
                        || does == Does::WorldBesideLateAllowList && name.ends_with(".wl.test.");
                    if late && !is_test(&query.queries[0]) {
                        sleep(Duration::from_millis(400)).await;
                    }
                    if does == Does::HidesThatItListsTheWorld && is_test(&query.queries[0]) {
                        sleep(Duration::from_millis(200)).await;
                    }
                    open.fetch_sub(1, SeqCst);
                    if let Some(answer) = answer(&query, does, false) {
                        udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                    }
                });
            }
        });
        let does = Arc::clone(&server.does);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let does = Arc::clone(&does);
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut bytes = vec![0; len.into()];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let query = Message::from_vec(&bytes).unwrap();
                        let does = *does.lock().unwrap();
                        let Some(answer) = answer(&query, does, true) else {
                            return;
                        };
                        let answer = answer.to_vec().unwrap();
                        stream
                            .write_u16(answer.len().try_into().unwrap())
                            .await
                            .unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        server
    }

    pub fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub fn queries(&self) -> usize {
        self.queries.load(SeqCst)
    }
}

/// Whether it is a query for one of RFC 5782's test entries.
fn is_test(query: &Query) -> bool {
    let name = query.name().to_ascii().to_lowercase();
    [
        "1.0.0.127.",
        "2.0.0.127.",
        "1.0.0.0.0.0.f.7.f.f.f.f.",
        "2.0.0.0.0.0.f.7.f.f.f.f.",
    ]
    .iter()
    .any(|entry| name.starts_with(entry))
}

fn record(name: &Name, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::A(A(Ipv4Addr::from(address))))
}

fn soa(name: &Name) -> Record {
    let soa = SOA::new(name.clone(), name.clone(), 1, 60, 60, 60, 60);
    Record::from_rdata(name.clone(), 60, RData::SOA(soa))
}

fn answer(query: &Message, does: Does, tcp: bool) -> Option<Message> {
    let question = query.queries[0].clone();
    let name = question.name().clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    let origin = Name::from_ascii("bl.test.").unwrap();
    let nobody = |mut answer: Message| {
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.add_authority(soa(&origin));
        Some(answer)
    };
    let code = |mut answer: Message, code| {
        answer.metadata.response_code = code;
        Some(answer)
    };
    if let Does::Everything(whole) = does {
        return match whole {
            Whole::ListsTheWorld => {
                answer.add_answer(record(&name, 60, CODE));
                Some(answer)
            }
            Whole::Answers(address) => {
                answer.add_answer(record(&name, 60, address));
                Some(answer)
            }
            Whole::Nxdomain => nobody(answer),
            Whole::Refuses => code(answer, ResponseCode::Refused),
            Whole::Silent => None,
        };
    }
    if let Does::Texts(text) = does
        && question.query_type() == RecordType::TXT
    {
        let text = TXT::new(vec![text.to_owned()]);
        answer.add_answer(Record::from_rdata(name, 60, RData::TXT(text)));
        return Some(answer);
    }
    let below = |zone: &str| name.to_ascii().to_lowercase().ends_with(zone);
    if does == Does::OneIsDead && below(".b.test.") {
        return None;
    }
    if does == Does::WorldBesideLateAllowList && !below(".wl.test.")
        || does == Does::OneLiesOneIsSlow && below(".bl.test.")
    {
        answer.add_answer(record(&name, 60, CODE));
        return Some(answer);
    }
    if does == Does::AllowListVouchesForAll && below(".wl.test.") {
        answer.add_answer(record(&name, 60, [127, 0, 5, 3]));
        return Some(answer);
    }
    if is_test(&question) && does != Does::HidesThatItListsTheWorld {
        if name.to_ascii().starts_with('1') {
            return nobody(answer);
        }
        answer.add_answer(record(&name, 60, CODE));
        return Some(answer);
    }
    match does {
        Does::ListsNobody => return nobody(answer),
        Does::NoSoa => return code(answer, ResponseCode::NXDomain),
        Does::Refuses => return code(answer, ResponseCode::Refused),
        Does::ServFail => return code(answer, ResponseCode::ServFail),
        Does::WorldBesideLateAllowList => return nobody(answer),
        Does::AllowListIsSilent if below(".wl.test.") => return None,
        Does::Silent => return None,
        Does::Truncates if !tcp => answer.metadata.truncation = true,
        Does::Huge if !tcp => answer.metadata.truncation = true,
        Does::Huge => {
            answer.add_answers((0..1000).map(|_| record(&name, 60, CODE)));
        }
        Does::WrongId => {
            answer.metadata.id = query.metadata.id.wrapping_add(1);
            answer.add_answer(record(&name, 60, CODE));
        }
        Does::WrongOwner => {
            let other = Name::from_ascii("7.7.7.7.bl.test.").unwrap();
            answer.add_answer(record(&other, 60, CODE));
        }
        Does::Cname => {
            let (b, c) = (
                Name::from_ascii("b.bl.test.").unwrap(),
                Name::from_ascii("c.bl.test.").unwrap(),
            );
            let alias = |from: &Name, to: &Name| {
                Record::from_rdata(from.clone(), 60, RData::CNAME(CNAME(to.clone())))
            };
            answer.add_answer(alias(&name, &b));
            answer.add_answer(alias(&b, &c));
            answer.add_answer(record(&c, 60, CODE));
        }
        Does::Ttl(ttl) => {
            answer.add_answer(record(&name, ttl, CODE));
        }
        Does::AllowListErrs => {
            let address = if below("wl.test.") {
                [127, 0, 0, 255]
            } else {
                CODE
            };
            answer.add_answer(record(&name, 60, address));
        }
        Does::ErrorCode(address) => {
            answer.add_answer(record(&name, 60, address));
        }
        _ => {
            answer.add_answer(record(&name, 60, CODE));
        }
    }
    Some(answer)
}
