package files

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"relevo.dev/relevo/avahi"
)

// element is one of a file of avahi-daemon's, with where it begins.
type element struct {
	name         string
	attrs        map[string]string
	text         string
	inner        []*element
	line, column int
}

// maxDepth of elements; the format has three.
const maxDepth = 8

// ParseXML reads a file of avahi-daemon's: a service-group. What this program cannot do
// as the file says is an error; services without one are there beside it.
func ParseXML(name string, text []byte) (out []Service, errs []*Error) {
	root, err := tree(name, text)
	if err != nil {
		return nil, []*Error{err}
	}
	fail := func(e *element, format string, args ...any) {
		errs = append(errs, &Error{name, e.line, e.column, fmt.Sprintf(format, args...)})
	}
	if root.name != "service-group" {
		fail(root, "<%.40s>: a <service-group> is needed", root.name)
		return nil, errs
	}
	group := Service{}
	for _, e := range root.inner {
		if e.name == "name" {
			group.Name = e.text
			if w := e.attrs["replace-wildcards"]; w != "yes" {
				group.Name = strings.ReplaceAll(group.Name, "%", "%%")
			}
		}
	}
	if group.Name == "" {
		fail(root, "<name> is missing")
		return nil, errs
	}
	for _, e := range root.inner {
		switch e.name {
		case "name":
		case "service":
			before := len(errs)
			s := xmlService(e, group, fail)
			if len(errs) == before && len(out) < maxServices {
				out = append(out, s)
			}
		default:
			fail(e, "<%.40s> is not known: <name> and <service> are", e.name)
		}
	}
	return out, errs
}

// xmlService reads one service.
func xmlService(e *element, s Service, fail func(*element, string, ...any)) Service {
	if p := e.attrs["protocol"]; p != "" && p != "any" && p != "ipv4" {
		fail(e, "protocol %.20q: any or ipv4 is possible here", p)
	}
	for _, f := range e.inner {
		switch f.name {
		case "type":
			s.Type = f.text
			if !avahi.ValidType(s.Type) {
				fail(f, "type %s: something like _http._tcp is needed", quote(s.Type))
			}
		case "subtype": // in full: _printer._sub._http._tcp
			sub, _, _ := strings.Cut(f.text, "._sub.")
			s.Subtypes = append(s.Subtypes, sub)
		case "port":
			n, err := strconv.Atoi(f.text)
			if err != nil || n < 1 || n > 65535 {
				fail(f, "port %s: a number from 1 to 65535 is needed", quote(f.text))
			}
			s.Port = n
		case "txt-record":
			t, err := txtRecord(f)
			if err != nil {
				fail(f, "txt-record: %v", err)
			}
			s.TXT = append(s.TXT, t)
		case "host-name":
			label, rest, _ := strings.Cut(strings.TrimSuffix(f.text, "."), ".")
			if rest != "" && rest != "local" {
				fail(f, "host-name %s: only hosts in .local can be announced", quote(f.text))
			}
			s.Host = label
		case "domain-name":
			if d := strings.TrimSuffix(f.text, "."); d != "" && d != "local" {
				fail(f, "domain-name %s: only local can be announced", quote(f.text))
			}
		default:
			fail(f, "<%.40s> is not known in a <service>", f.name)
		}
	}
	if s.Type == "" {
		fail(e, "<type> is missing")
	}
	if s.Port == 0 {
		fail(e, "<port> is missing")
	}
	if len(s.TXT) > maxTXT || len(s.Subtypes) > maxTXT {
		fail(e, "%d texts and %d subtypes: %d are allowed", len(s.TXT), len(s.Subtypes), maxTXT)
	}
	return s
}

func txtRecord(e *element) (string, error) {
	switch e.attrs["value-format"] {
	case "", "text":
		return e.text, nil
	case "binary-hex", "binary-base64":
		key, value, _ := strings.Cut(e.text, "=")
		decode := hex.DecodeString
		if e.attrs["value-format"] == "binary-base64" {
			decode = base64.StdEncoding.DecodeString
		}
		b, err := decode(value)
		if err != nil {
			return "", fmt.Errorf("the value of %s: %w", quote(key), err)
		}
		return key + "=" + string(b), nil
	}
	return "", fmt.Errorf("value-format %.20q: text, binary-hex or binary-base64 is possible", e.attrs["value-format"])
}

// tree reads the elements. There are no entities but XML's own, so that a small file
// stays small.
func tree(name string, text []byte) (*element, *Error) {
	dec := xml.NewDecoder(bytes.NewReader(text))
	dec.CharsetReader = func(string, io.Reader) (io.Reader, error) { return nil, errors.New("UTF-8 is needed") }
	var open []*element
	var root *element
	count := 0
	bad := func(err error) *Error {
		line, column := dec.InputPos()
		return &Error{name, line, column, "is not XML here: " + strings.TrimPrefix(err.Error(), fmt.Sprintf("XML syntax error on line %d: ", line))}
	}
	for {
		line, column := dec.InputPos()
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && root != nil {
			return root, nil
		}
		if err != nil {
			return nil, bad(err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			e := &element{name: t.Name.Local, attrs: map[string]string{}, line: line, column: column}
			for _, a := range t.Attr {
				e.attrs[a.Name.Local] = a.Value
			}
			if count++; count > 20*maxServices || len(open) == maxDepth {
				return nil, bad(errors.New("it has too many elements"))
			}
			if len(open) > 0 {
				in := open[len(open)-1]
				in.inner = append(in.inner, e)
			} else if root != nil {
				return nil, bad(errors.New("a second <service-group> is one too many"))
			} else {
				root = e
			}
			open = append(open, e)
		case xml.EndElement:
			e := open[len(open)-1]
			e.text = strings.TrimSpace(e.text)
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text += string(t)
			}
		}
	}
}
