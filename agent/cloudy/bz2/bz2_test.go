package bz2

import (
	"bytes"
	"compress/bzip2"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func restore(t *testing.T, packed []byte) []byte {
	t.Helper()
	out, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(packed)))
	if err != nil {
		t.Fatalf("the standard library does not read it: %v", err)
	}
	return out
}

// samples are texts that meet every part of the format.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	skewed := []byte{} // codes that would be longer than allowed: Fibonacci's counts
	for i, a, b := 0, 1, 1; i < 18; i, a, b = i+1, b, a+b {
		skewed = append(skewed, bytes.Repeat([]byte{byte(i), 200}, a)...)
	}
	long := make([]byte, 0, 1<<14)
	for range 1 << 12 {
		long = append(long, 'a', 'b', 'b', byte(r.IntN(3)))
	}
	return map[string][]byte{
		"nothing":      {},
		"one byte":     {0},
		"two":          []byte("ab"),
		"four":         []byte("aaaa"),
		"five":         []byte("aaaaa"),
		"runs":         bytes.Repeat([]byte("aaaabbbbbbccccccccccccd"), 9),
		"254 to 260":   []byte(strings.Repeat("x", 254) + "y" + strings.Repeat("x", 255) + "y" + strings.Repeat("x", 260) + "y" + strings.Repeat("z", 1000)),
		"period":       bytes.Repeat([]byte("abc"), 400),
		"one run":      bytes.Repeat([]byte{'x'}, maxBlock),
		"worst run":    bytes.Repeat([]byte("aaaab"), 1500),
		"noise":        noise,
		"all bytes":    bytes.Repeat(all, 3),
		"skewed":       skewed,
		"few symbols":  long,
		"block border": append(bytes.Repeat([]byte{'x'}, maxBlock), "the second block"...),
	}
}

func TestReadsBack(t *testing.T) {
	for name, in := range samples() {
		packed := Compress(in)
		if !bytes.Equal(restore(t, packed), in) {
			t.Errorf("%s: %d bytes come back as others", name, len(in))
		}
		if !bytes.Equal(Compress(in), packed) {
			t.Errorf("%s: other bytes for the same input", name)
		}
	}
}

// TestBunzip2: the original program accepts it, too.
func TestBunzip2(t *testing.T) {
	path, err := exec.LookPath("bunzip2")
	if err != nil {
		t.Skip("no bunzip2 here")
	}
	for name, in := range samples() {
		c := exec.CommandContext(t.Context(), path, "-c")
		c.Stdin = bytes.NewReader(Compress(in))
		out, err := c.Output()
		if err != nil || !bytes.Equal(out, in) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCodesAreLimited(t *testing.T) {
	counts := make([]int, 40) // Fibonacci's make the deepest tree there is
	for i, a, b := 0, 1, 1; i < len(counts); i, a, b = i+1, b, a+b {
		counts[i] = a
	}
	sum := 0
	for _, l := range huffman(counts) {
		if l < 1 || l > maxLength {
			t.Fatalf("a code of %d bits", l)
		}
		sum += 1 << (maxLength - l)
	}
	if sum != 1<<maxLength {
		t.Errorf("the codes fill %d of %d", sum, 1<<maxLength)
	}
}

func FuzzCompress(f *testing.F) {
	for _, in := range samples() {
		if len(in) < 2000 {
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !bytes.Equal(restore(t, Compress(in)), in) {
			t.Errorf("%q comes back as something else", in)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	in := bytes.Repeat([]byte(`{"s":"http","d":"a_web_server","m":"pi.guifi.local","i":"10.1.2.3","p":"80","e":"home","t":""},`), 15)
	b.ReportAllocs()
	for b.Loop() {
		Compress(in)
	}
}
