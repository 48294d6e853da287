//! What an interface's driver can do natively, as the kernel says (generic netlink family `netdev`, Linux 6.3).

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

// <linux/genetlink.h>, <linux/netdev.h> and <linux/netlink.h>.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// Of `nlmsghdr` and `genlmsghdr`.
const HEADER_BYTES: usize = 20;

/// The kernel answers at once; it only must not be waited for without end.
const PATIENCE_S: i64 = 2;

/// What a driver can do natively.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// It runs programs at all.
    pub const fn basic(self) -> bool {
        self.0 & 1 != 0
    }

    /// Its packets can be sent through other interfaces.
    pub const fn redirect(self) -> bool {
        self.0 & 2 != 0
    }

    /// Packets of other interfaces can be sent through it.
    pub const fn transmit(self) -> bool {
        self.0 & 4 != 0
    }

    /// Packets in several buffers, as with an MTU above a page.
    pub const fn fragments(self) -> bool {
        self.0 & 32 != 0
    }
}

/// Returns what an interface can do; `None` where the kernel is too old to say.
pub fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    let netlink = open()?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = match ask(&netlink, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        answer => answer?,
    };
    let Some(family) = find(&family, CTRL_ATTR_FAMILY_ID).and_then(|it| it.first_chunk()) else {
        return Ok(None);
    };
    let index = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    let device = ask(&netlink, u16::from_ne_bytes(*family), NETDEV_CMD_DEV_GET, &index)?;
    let features = find(&device, NETDEV_A_DEV_XDP_FEATURES).and_then(|it| it.first_chunk());
    Ok(features.map(|features| XdpFeatures(u64::from_ne_bytes(*features))))
}

fn open() -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    Ok(netlink)
}

/// Sends one request and returns the attributes of its answer.
fn ask(netlink: &OwnedFd, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (HEADER_BYTES + attributes.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender: one question at a time, and the kernel knows who asks.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 << 10];
    let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(count);
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = buffer.get(4..6).and_then(<[u8]>::first_chunk).ok_or_else(malformed)?;
    if u16::from_ne_bytes(*kind) == NLMSG_ERROR {
        let errno = buffer.get(16..20).and_then(<[u8]>::first_chunk).ok_or_else(malformed)?;
        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*errno)));
    }
    Ok(buffer.get(HEADER_BYTES..).ok_or_else(malformed)?.to_vec())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Returns the value of the first attribute of this kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let found = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_what_is_cut_off_is_none() {
        let list = [attribute(2, b"netdev\0"), attribute(1, &[7, 0])].concat();
        assert_eq!(find(&list, 1), Some(&[7, 0][..]));
        assert_eq!(find(&list, 2), Some(&b"netdev\0"[..]));
        assert_eq!(find(&list, 3), None);
        for length in 0..list.len() - 2 {
            assert_eq!(find(&list[..length], 1), None, "{length}");
        }
        assert_eq!(find(&[0; 16], 1), None, "an attribute without a length");
    }

    #[test]
    fn an_interface_that_there_is_not_is_an_error_and_loopback_has_no_driver() {
        match xdp_features(1) {
            // Before Linux 6.3.
            Ok(None) => {}
            Ok(Some(features)) => {
                assert!(!features.basic());
                let error = xdp_features(u32::MAX >> 1).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            }
            Err(error) => panic!("{error}"),
        }
    }
}
