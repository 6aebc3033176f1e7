package vip

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
)

// frame is an Ethernet frame with an ARP packet for IPv4 (RFC 826).
type frame struct {
	dst, src           net.HardwareAddr
	op                 uint16
	senderHW, targetHW net.HardwareAddr
	senderIP, targetIP netip.Addr
}

const (
	opRequest = 1
	opReply   = 2
	etherARP  = 0x0806
	frameSize = 14 + 28
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (f frame) encode() []byte {
	b := make([]byte, 0, frameSize)
	b = append(b, f.dst...)
	b = append(b, f.src...)
	b = binary.BigEndian.AppendUint16(b, etherARP)
	b = binary.BigEndian.AppendUint16(b, 1)      // Ethernet
	b = binary.BigEndian.AppendUint16(b, 0x0800) // IPv4
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, f.op)
	b = append(b, f.senderHW...)
	b = append(b, f.senderIP.AsSlice()...)
	b = append(b, f.targetHW...)
	return append(b, f.targetIP.AsSlice()...)
}

var errNotARP = errors.New("not an ARP packet for IPv4 over Ethernet")

func decode(b []byte) (frame, error) {
	if len(b) < frameSize || binary.BigEndian.Uint16(b[12:]) != etherARP {
		return frame{}, errNotARP
	}
	p := b[14:]
	if binary.BigEndian.Uint16(p) != 1 || binary.BigEndian.Uint16(p[2:]) != 0x0800 || p[4] != 6 || p[5] != 4 {
		return frame{}, errNotARP
	}
	return frame{
		dst: net.HardwareAddr(b[0:6]), src: net.HardwareAddr(b[6:12]), op: binary.BigEndian.Uint16(p[6:]),
		senderHW: net.HardwareAddr(p[8:14]), senderIP: netip.AddrFrom4([4]byte(p[14:18])),
		targetHW: net.HardwareAddr(p[18:24]), targetIP: netip.AddrFrom4([4]byte(p[24:28])),
	}, nil
}

// probe asks who has ip without claiming it: the sender's address is zero, so that
// nobody's table is changed (RFC 5227, 1.1).
func probe(hw net.HardwareAddr, ip netip.Addr) frame {
	return frame{broadcast, hw, opRequest, hw, make(net.HardwareAddr, 6), netip.IPv4Unspecified(), ip}
}

// announcement tells everybody that ip is at hw (RFC 5227, 2.3); reply is the other
// of the two forms, since some stacks only learn from one of them.
func announcement(hw net.HardwareAddr, ip netip.Addr, reply bool) frame {
	f := frame{broadcast, hw, opRequest, hw, make(net.HardwareAddr, 6), ip, ip}
	if reply {
		f.op, f.targetHW = opReply, hw
	}
	return f
}
