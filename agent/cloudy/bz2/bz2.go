// Package bz2 writes bzip2, which the standard library only reads. It is made for
// texts of some kilobytes that must become as short as can be: it tries several
// ways to divide the text among Huffman tables and keeps the shortest result. The
// same input always gives the same bytes.
//
// The other writer for Go, github.com/dsnet/compress v0.0.1, makes a list of 15
// services a quarter longer than bzip2 does, and 107 kB of ARMv6 code.
package bz2

const (
	// maxBlock bytes of input become one block. Runs of four, the worst case, grow
	// by a quarter; level 1 allows 100 000 bytes.
	maxBlock = 64 << 10

	blockMagic = 0x314159265359
	endMagic   = 0x177245385090
)

// Compress returns in as a bzip2 file.
func Compress(in []byte) []byte {
	w := &bits{out: make([]byte, 0, 64+len(in)/3)}
	w.write('B', 8)
	w.write('Z', 8)
	w.write('h', 8)
	w.write('1', 8)
	var sum uint32 // of all blocks
	for len(in) > 0 {
		n := min(len(in), maxBlock)
		crc := checksum(in[:n])
		sum = (sum<<1 | sum>>31) ^ crc
		block(w, in[:n], crc)
		in = in[n:]
	}
	w.write(endMagic, 48)
	w.write(uint64(sum), 32)
	return w.close()
}

func block(w *bits, in []byte, crc uint32) {
	last, origin := transform(runs(in))
	syms, used := moveToFront(last)
	w.write(blockMagic, 48)
	w.write(uint64(crc), 32)
	w.write(0, 1) // not randomised
	w.write(uint64(origin), 24)
	writeUsed(w, &used)
	best := chooseTables(syms)
	best.write(w, syms)
}

// writeUsed tells which bytes occur: 16 bits for the sixteens that have some, then
// 16 bits for each of those.
func writeUsed(w *bits, used *[256]bool) {
	var some uint64
	var each [16]uint64
	for b, yes := range used {
		if yes {
			some |= 1 << (15 - b/16)
			each[b/16] |= 1 << (15 - b%16)
		}
	}
	w.write(some, 16)
	for _, m := range each {
		if m != 0 {
			w.write(m, 16)
		}
	}
}

// bits collects bits, the first one highest.
type bits struct {
	out []byte
	acc uint64 // its lowest n bits are still to be written, n < 8
	n   uint
}

// write appends the lowest n bits of v; n is 48 at most.
func (w *bits) write(v uint64, n uint) {
	w.acc = w.acc<<n | v
	for w.n += n; w.n >= 8; {
		w.n -= 8
		w.out = append(w.out, byte(w.acc>>w.n))
	}
	w.acc &= 1<<w.n - 1
}

func (w *bits) close() []byte {
	if w.n > 0 {
		w.write(0, 8-w.n)
	}
	return w.out
}

// bzip2's CRC-32 has the polynomial of the usual one, the other way round.
var crcTable = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c>>31 == 1 {
				c = c<<1 ^ 0x04c11db7
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

func checksum(in []byte) uint32 {
	c := ^uint32(0)
	for _, b := range in {
		c = c<<8 ^ crcTable[byte(c>>24)^b]
	}
	return ^c
}
