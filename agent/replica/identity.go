package replica

import (
	"context"
	"io"
	"net/url"
	"strconv"
	"time"

	"relevo.dev/relevo/agent/replica/files"
)

// runIdentity mirrors the identity whenever a beat brings a digest that is not
// the mirror's. What was complete stays until the new one is complete.
func (f *Follower) runIdentity(ctx context.Context) error {
	f.identity(f.mirror.Load())
	pause := f.cfg.RetryMin
	said := time.Duration(0)
	var retry <-chan time.Time
	var want string
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-f.digest:
			if d == want && retry != nil {
				continue // not before the pause is over
			}
			want = d
		case <-retry:
		}
		retry = nil
		if want == f.mirror.Digest() {
			f.identity(f.mirror.Expire())
			continue
		}
		q := url.Values{"cluster": {f.cfg.Cluster}, "term": {strconv.FormatUint(f.cfg.Term(), 10)}}
		err := f.mirror.Update(ctx, func(ctx context.Context, e *files.Entry) (io.ReadCloser, error) {
			q := url.Values{"cluster": q["cluster"], "term": q["term"]}
			path := PathIdentity
			if e != nil {
				path = PathFile
				q.Set("path", e.Path)
				q.Set("sha256", e.SHA256)
			}
			resp, err := f.get(ctx, path, q)
			if err != nil {
				return nil, err
			}
			return resp.Body, nil
		})
		if ctx.Err() != nil {
			return nil
		}
		f.identity(err)
		if err != nil {
			if now := f.cfg.Clock(); said == 0 || now > said+time.Minute {
				said = now
				f.cfg.Log.Warn("the identity could not be mirrored", "retry", pause, "err", err)
			}
			retry = time.After(pause)
			pause = min(2*pause, f.cfg.RetryMax)
			continue
		}
		pause, said = f.cfg.RetryMin, 0
		f.cfg.Log.Info("the identity is mirrored", "digest", f.mirror.Digest(), "files", f.mirror.Len())
	}
}

// identity brings the mirror's state onto the board.
func (f *Follower) identity(err error) {
	f.board.update(func(b *board) {
		b.mirrored = f.mirror.Digest() != ""
		b.pos.IdentityDigest = f.mirror.Digest()
		b.identity = errText(err, "")
		if err == nil && !b.mirrored {
			b.identity = "the identity was not mirrored yet"
		}
	})
}
