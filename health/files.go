package health

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	// firstBuffer is enough for nearly every file of /proc and /sys.
	firstBuffer = 8 << 10
	// maxFile bounds what is read of one file. The largest that is read is
	// /proc/self/mountinfo: some 200 bytes a line, and the file systems that count
	// were mounted before the first container.
	maxFile = 128 << 10
	// maxEntries bounds the names that are taken from one directory.
	maxEntries = 256
)

// files reads small files below one root into one buffer, again and again: a round
// must not keep the garbage collector of a Pi Zero busy. Not for concurrent use.
type files struct {
	dir  *os.File // the root, kept open; nil = /
	fd   int      // of dir; AT_FDCWD for /, -1 if the root is not there
	buf  []byte
	dirs []byte
}

// openRoot opens dir as the root; "" and / are the host's own.
func openRoot(dir string) *files {
	f := &files{fd: unix.AT_FDCWD, buf: make([]byte, firstBuffer), dirs: make([]byte, 4<<10)}
	if dir == "" || filepath.Clean(dir) == "/" {
		return f
	}
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		f.fd = -1
		return f
	}
	f.dir, f.fd = d, int(d.Fd())
	return f
}

// under makes an absolute path one below the root.
func (f *files) under(path string) string {
	if f.fd == unix.AT_FDCWD {
		return path
	}
	return path[1:]
}

// open opens an absolute path below the root. A FIFO does not hold it up.
func (f *files) open(path string, flags int) (int, error) {
	if f.fd == -1 {
		return -1, unix.ENOENT
	}
	for {
		fd, err := unix.Openat(f.fd, f.under(path), flags|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// stat asks for the modification time and the like.
func (f *files) stat(path string) (st unix.Stat_t, err error) {
	if f.fd == -1 {
		return st, unix.ENOENT
	}
	err = unix.Fstatat(f.fd, f.under(path), &st, 0)
	return st, err
}

// exists says whether a file or directory is there.
func (f *files) exists(path string) bool {
	_, err := f.stat(path)
	return err == nil
}

// read returns a file, and no more of it than maxFile. The bytes are good until the
// next read.
func (f *files) read(path string) ([]byte, error) {
	fd, err := f.open(path, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(f.buf) {
			if n >= maxFile {
				return f.buf[:n], nil
			}
			f.buf = append(f.buf, make([]byte, n)...)
		}
		m, err := unix.Read(fd, f.buf[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case m <= 0:
			return f.buf[:n], nil
		default:
			n += m
		}
	}
}

// number reads a file that holds one number.
func (f *files) number(path string) (float64, error) {
	b, err := f.read(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(string(bytes.TrimSpace(b)), 64)
}

// value is number, unknown where there is none.
func (f *files) value(path string) Value {
	n, err := f.number(path)
	if err != nil {
		return Value{}
	}
	return Of(n)
}

// text reads a file that holds a line for people.
func (f *files) text(path string, most int) string {
	b, err := f.read(path)
	if err != nil {
		return ""
	}
	return printable(string(b[:min(len(b), 4*most)]), most)
}

// be32 reads a property of the device tree: 32 bits, the highest first.
func (f *files) be32(path string) (uint32, bool) {
	b, err := f.read(path)
	if err != nil || len(b) != 4 {
		return 0, false
	}
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), true
}

// Offsets of the kernel's struct linux_dirent64, the same on every architecture.
const (
	direntLength = 16 // uint16: bytes of this entry
	direntName   = 19 // ends with a zero byte
)

// each calls do for the name of every entry of a directory until it says false.
func (f *files) each(path string, do func(name []byte) bool) error {
	fd, err := f.open(path, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Getdents(fd, f.dirs)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		for b := f.dirs[:n]; len(b) > direntName; {
			size := int(binary.NativeEndian.Uint16(b[direntLength:]))
			if size <= direntName || size > len(b) {
				return errors.New("the kernel's directory entry cannot be read")
			}
			name, _, _ := bytes.Cut(b[direntName:size], []byte{0})
			b = b[size:]
			if s := string(name); s == "." || s == ".." {
				continue
			}
			if !do(name) {
				return nil
			}
		}
	}
}

// list returns the names in a directory, sorted, maxEntries at most.
func (f *files) list(path string) []string {
	var names []string
	// A directory that vanishes meanwhile is as one that was never there.
	_ = f.each(path, func(name []byte) bool {
		names = append(names, string(name))
		return len(names) < maxEntries
	})
	slices.Sort(names)
	return names
}

// line cuts the first line off.
func line(b []byte) (first, rest []byte) {
	first, rest, _ = bytes.Cut(b, []byte{'\n'})
	return first, rest
}

// field cuts the first word off.
func field(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t")
	if i := bytes.IndexAny(b, " \t"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// maxNumber is what a counter of 64 bits can say.
const maxNumber = 1 << 64

// numbers reads as many numbers of 0 and above as there are into out, and returns
// how many.
func numbers(b []byte, out []float64) int {
	for i := range out {
		var w []byte
		if w, b = field(b); len(w) == 0 {
			return i
		}
		n, err := strconv.ParseFloat(string(w), 64)
		if err != nil || !(n >= 0) || n > maxNumber {
			return i
		}
		out[i] = n
	}
	return len(out)
}

// absent shortens the error of a source that is not there on this host.
func absent(err, what error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return what
	}
	return err
}

// printable cuts a text from a file to something that can be shown: the device
// tree ends its texts with a zero byte, other files with a line end.
func printable(s string, most int) string {
	if i := strings.IndexAny(s, "\x00\n"); i >= 0 {
		s = s[:i]
	}
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
