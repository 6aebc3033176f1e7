package hosts

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
)

// cardScript makes a host's disk: $1 its folder, $2 its name, $3 the base, $4 the size of
// its card in MB. What the host writes lies on the card, an ext4 that goes read-only at
// the first error, as on a Raspberry Pi; size 0 is a folder of this machine's disk.
const cardScript = `set -e
mkdir -p "$1" "$1/root" "$1/card"
if [ "$4" != 0 ]; then
	if ! [ -e "$1/card.img" ]; then
		truncate -s "$4"M "$1/card.img"
		mkfs.ext4 -q -m 0 -L "$2" "$1/card.img"
	fi
	mount -o loop,errors=remount-ro "$1/card.img" "$1/card"
fi
mkdir -p "$1/card/upper" "$1/card/work"
mount -t overlay rlv-"$2" -o lowerdir="$3",upperdir="$1/card/upper",workdir="$1/card/work" "$1/root"`

func (h *Host) mountCard(ctx context.Context) error {
	_, err := h.lab.sh(ctx, cardScript, h.dir, h.Name, h.lab.base, strconv.Itoa(h.lab.opts.CardMB))
	return err
}

func (h *Host) unmountCard(ctx context.Context) error {
	_, err := h.lab.sh(ctx, `umount "$1/root"; ! mountpoint -q "$1/card" || umount "$1/card"`, h.dir)
	return err
}

// CardFails makes the host's card report an error: its file system is read-only from here
// on. Only with Options.CardMB.
func (h *Host) CardFails(ctx context.Context) error {
	_, err := h.lab.sh(ctx, `set -e
dev=$(findmnt -n -o SOURCE "$1/card")
echo "the card of $2" >"/sys/fs/ext4/${dev##*/}/trigger_fs_error"`, h.dir, h.Name)
	if err != nil {
		return fmt.Errorf("make the card of %s fail: %w", h.Name, err)
	}
	h.lab.opts.Log("%s: the card fails, it is read-only", h.Name)
	return nil
}

// RepairCard checks the card of a host that is off, as fsck does at boot.
func (h *Host) RepairCard(ctx context.Context) error {
	if h.On() {
		return fmt.Errorf("repair the card of %s: it is on", h.Name)
	}
	if err := h.unmountCard(ctx); err != nil {
		return err
	}
	if _, err := h.lab.sh(ctx, `e2fsck -fy "$1/card.img" >&2 || [ $? -lt 4 ]`, h.dir); err != nil {
		return fmt.Errorf("repair the card of %s: %w", h.Name, err)
	}
	return h.mountCard(ctx)
}

// CopyCard makes the disk of a host that is off a copy of another's, as it is now.
func (h *Host) CopyCard(ctx context.Context, from *Host) error {
	if h.On() {
		return fmt.Errorf("copy the card of %s to %s: %[2]s is on", from.Name, h.Name)
	}
	if err := h.unmountCard(ctx); err != nil {
		return err
	}
	if _, err := h.lab.sh(ctx, `set -e
if [ -e "$1/card.img" ]; then mount -o loop,errors=remount-ro "$1/card.img" "$1/card"; fi
rm -rf "$1/card/upper" "$1/card/work"
cp -a "$2" "$1/card/upper"
! mountpoint -q "$1/card" || umount "$1/card"`, h.dir, filepath.Join(from.dir, "card/upper")); err != nil {
		return fmt.Errorf("copy the card of %s to %s: %w", from.Name, h.Name, err)
	}
	h.lab.opts.Log("%s: has a copy of the card of %s", h.Name, from.Name)
	return h.mountCard(ctx)
}
