package kinetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Client is an etcd client of kine that knows what the API server uses and kine takes: three
// transactions, and a list. Its methods may be called from several goroutines.
type Client struct {
	http *http.Client
	url  string
}

// NewClient speaks with host:port, by dial if that is not nil. A connection on which
// nothing comes back for a second is given up: its host may have no power.
func NewClient(address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: dial, HTTP2: &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second}}
	return &Client{http: &http.Client{Transport: tr, Timeout: 30 * time.Second}, url: "http://" + address}
}

// Close ends its connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Put creates a key, or updates it if rev is its newest revision and not 0, and returns
// the new revision.
func (c *Client) Put(ctx context.Context, key, value string, rev int64) (int64, error) {
	put := field(2, append(field(1, []byte(key)), field(2, []byte(value))...)) // RequestOp.request_put
	txn := append(compare(key, rev), field(2, put)...)
	if rev != 0 {
		txn = append(txn, field(3, field(1, field(1, []byte(key))))...)
	}
	return c.txn(ctx, txn)
}

// Delete deletes a key whose newest revision is rev.
func (c *Client) Delete(ctx context.Context, key string, rev int64) (int64, error) {
	txn := append(compare(key, rev), field(2, field(3, field(1, []byte(key))))...)
	return c.txn(ctx, append(txn, field(3, field(1, field(1, []byte(key))))...))
}

// List returns the newest revision of each key below a prefix, which ends in a slash, and
// the revision at which it was asked.
func (c *Client) List(ctx context.Context, prefix string) (revs map[string]int64, at int64, err error) {
	end := []byte(prefix)
	end[len(end)-1]++
	answer, err := c.call(ctx, "/etcdserverpb.KV/Range", append(field(1, []byte(prefix)), field(2, end)...))
	if err != nil {
		return nil, 0, err
	}
	revs = map[string]int64{}
	err = fields(answer, func(n int, v uint64, data []byte) error { // RangeResponse
		switch n {
		case 1:
			at, err = revision(data)
		case 2:
			var key string
			err = fields(data, func(n int, v uint64, data []byte) error { // KeyValue
				switch n {
				case 1:
					key = string(data)
				case 3:
					revs[key] = int64(v)
				}
				return nil
			})
		}
		return err
	})
	return revs, at, err
}

// compare is TxnRequest.compare: mod revision of key equals rev.
func compare(key string, rev int64) []byte {
	c := append([]byte{2 << 3, 2}, field(3, []byte(key))...) // target MOD
	return field(1, binary.AppendUvarint(append(c, 6<<3), uint64(rev)))
}

// field is one length-delimited field of a protobuf message.
func field(n int, data []byte) []byte {
	b := binary.AppendUvarint([]byte{byte(n<<3 | 2)}, uint64(len(data)))
	return append(b, data...)
}

// txn sends a transaction and returns its revision; it must succeed.
func (c *Client) txn(ctx context.Context, msg []byte) (rev int64, err error) {
	answer, err := c.call(ctx, "/etcdserverpb.KV/Txn", msg)
	if err != nil {
		return 0, err
	}
	done := false
	err = fields(answer, func(n int, v uint64, data []byte) error { // TxnResponse
		switch n {
		case 1:
			rev, err = revision(data)
		case 2:
			done = v == 1
		}
		return err
	})
	if err == nil && !done {
		err = fmt.Errorf("kine did not carry out the transaction: %q", answer)
	}
	return rev, err
}

// call is one unary call of gRPC.
func (c *Client) call(ctx context.Context, method string, msg []byte) ([]byte, error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+method, bytes.NewReader(append(body, msg...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("kine: %s: %w", method, err)
	}
	if status := res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status"); status != "0" || len(answer) < 5 {
		return nil, fmt.Errorf("kine: %s: %s, status %s %s%s", method, res.Status, status, res.Trailer.Get("Grpc-Message"), res.Header.Get("Grpc-Message"))
	}
	return answer[5:], nil
}

// revision reads ResponseHeader.revision.
func revision(header []byte) (rev int64, err error) {
	return rev, fields(header, func(n int, v uint64, _ []byte) error {
		if n == 3 {
			rev = int64(v)
		}
		return nil
	})
}

// fields calls f for each field of a protobuf message: v of those that are numbers, data
// of those that have a length.
func fields(b []byte, f func(n int, v uint64, data []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errCut
		}
		v, m := binary.Uvarint(b[n:])
		if m <= 0 || tag&7 != 0 && tag&7 != 2 {
			return errCut
		}
		b = b[n+m:]
		var data []byte
		if tag&7 == 2 {
			if v > uint64(len(b)) {
				return errCut
			}
			data, b = b[:v], b[v:]
		}
		if err := f(int(tag>>3), v, data); err != nil {
			return err
		}
	}
	return nil
}

var errCut = errors.New("kine's answer is no protobuf message that this client knows")
