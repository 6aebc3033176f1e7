package health

import "time"

// inventory is what there is on the host: names and paths, so that a round only
// reads. Directories are dear to list on a small board.
type inventory struct {
	taken    bool
	stale    bool // something vanished, or is another now
	at       time.Duration
	mounts   []mount
	ext4     []ext4Files
	drives   []drive
	zram     []string // paths of mm_stat
	sensors  []sensor // best first
	voltage  hwmon    // path "" = none
	cooling  []coolingFiles
	policies []policy
	packages string // counter of the processor's own throttling; "" = none
	links    []link
}

// inventoryEvery is how long a new disk or link may go unseen.
const inventoryEvery = time.Minute

func (m *Monitor) takeInventory(now time.Duration) {
	if m.has.taken && !m.has.stale && now-m.has.at < inventoryEvery {
		return
	}
	m.has = inventory{taken: true, at: now}
	m.findDrives()
	m.findMounts()
	m.findExt4()
	m.findZram()
	m.findSensors()
	m.findCooling()
	m.findPolicies()
	m.findLinks()
}

// gone makes the next round look again for what there is.
func (m *Monitor) gone() { m.has.stale = true }
