package rehearse

import (
	"bytes"
	"encoding/json"
	"io"

	"relevo.dev/relevo/agent/replica/files"
)

func manifestBody(m *files.Manifest) (io.ReadCloser, error) {
	b, err := json.Marshal(m)
	return io.NopCloser(bytes.NewReader(b)), err
}
