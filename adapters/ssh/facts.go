package ssh

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"commissaire/domain/event"
)

// Bounds of what a host may say of itself.
const (
	maxText  = 128     // bytes of any one text
	maxCPUs  = 1 << 16 // logical processors
	maxBytes = 1 << 50 // kilobytes of memory, and of space
)

// parseFacts reads the answer to `facts`. What a host must tell to be worked
// with – its OS, its boot id and, with ostree, what it runs – is an error where
// it is missing; a size that makes no sense is 0.
func parseFacts(a answer) (event.Facts, error) {
	if strings.TrimSpace(a["os-release"]) == "" {
		return event.Facts{}, errors.New("its /etc/os-release has no ID")
	}
	release := parseRelease(a["os-release"])
	id := cmp.Or(release["ID"], "linux") // as os-release(5) has it
	boot, err := parseBootID(a["boot-id"])
	if err != nil {
		return event.Facts{}, err
	}
	kernel := line(a["kernel"], maxText)
	facts := event.Facts{
		OS:           id,
		OSRelease:    strings.TrimSpace(id + " " + release["VERSION_ID"]),
		Like:         release["ID_LIKE"],
		CPUs:         int(number(a["cpus"], maxCPUs)),
		Memory:       parseMemory(a["memory"]),
		Space:        parseSpace(a["space"]),
		Arch:         line(a["machine"], maxText),
		BootID:       boot,
		MachineID:    parseMachineID(a["machine-id"]),
		Version:      strings.TrimSpace(release["VERSION_ID"] + " " + kernel),
		BootedID:     kernel,
		Programs:     inOneLine(a["programs"], maxText),
		RebootNeeded: parseRebootRequired(a),
	}
	status, described := a["rpm-ostree"]
	switch _, ostree := a["ostree"]; {
	case described:
		facts.OS, facts.OSTree = "atomic", true
		return facts, parseDeployments(&facts, status)
	case ostree: // made from an image, without rpm-ostree
		facts.OS, facts.OSTree = "atomic", true
	default:
		if facts.PendingID = nextKernel(kernel, a); facts.PendingID != "" {
			facts.Pending = strings.TrimSpace(release["VERSION_ID"] + " " + facts.PendingID)
		}
	}
	return facts, nil
}

// inOneLine is a text with one blank between its words.
func inOneLine(text string, limit int) string {
	return line(strings.Join(strings.Fields(clip(text, 64<<10)), " "), limit)
}

// parseRebootRequired reads what packages of Debian leave where they want a reboot:
// their names, or nothing but that it is so.
func parseRebootRequired(a answer) string {
	packages, required := a["reboot-required"]
	if !required {
		return ""
	}
	names := strings.Fields(clip(packages, 64<<10))
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "there is /run/reboot-required"
	}
	return "there is /run/reboot-required, of " + line(strings.Join(names, ", "), maxText)
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// parseMachineID reads /etc/machine-id as machine-id(5) has it; "" where there is
// none yet, or one that is nobody's.
func parseMachineID(text string) string {
	id := strings.ToLower(line(text, maxText))
	if !machineID.MatchString(id) || strings.Trim(id, "0") == "" {
		return ""
	}
	return id
}

func parseBootID(text string) (string, error) {
	id := strings.TrimSpace(text)
	if !bootID.MatchString(id) {
		return "", errors.New("its boot id cannot be read")
	}
	return id, nil
}

// parseMemory reads "MemTotal:  16000 kB".
func parseMemory(text string) int64 {
	fields := strings.Fields(clip(text, 1024))
	if len(fields) < 2 || fields[0] != "MemTotal:" {
		return 0
	}
	return number(fields[1], maxBytes)
}

// parseSpace adds up the sizes that `df -Pk` shows, each block device once, and each
// pool of ZFS once: its data sets share what is free. What is mounted from files
// (loop devices) lies on another of them.
func parseSpace(text string) int64 {
	var rows [][]string
	pools := map[string]int64{} // by name: what is free
	for row := range strings.Lines(text) {
		fields := strings.Fields(row)
		if len(fields) < 6 {
			continue
		}
		rows = append(rows, fields)
		if pool, ok := poolOf(fields[0], fields[5]); ok {
			pools[pool] = max(pools[pool], number(fields[3], maxBytes))
		}
	}
	var sum int64
	add := func(size int64) { sum = min(sum+size, maxBytes) }
	seen := map[string]bool{}
	for _, fields := range rows {
		device, pool := fields[0], ""
		if !strings.HasPrefix(device, "/") {
			pool, _, _ = strings.Cut(device, "/")
		}
		free, pooled := pools[pool]
		if seen[device] || !pooled && (!strings.HasPrefix(device, "/dev/") || strings.HasPrefix(device, "/dev/loop")) {
			continue
		}
		seen[device] = true
		if !pooled {
			add(number(fields[1], maxBytes))
			continue
		}
		add(number(fields[2], maxBytes))
		if !seen[pool+"/"] { // no device is called so
			seen[pool+"/"] = true
			add(free)
		}
	}
	return sum
}

// poolOf is the pool of a data set of ZFS, which df shows as POOL/NAME, or POOL where
// it is mounted by its own name. Other devices without a path are of servers, or are
// no disks.
func poolOf(device, mounted string) (string, bool) {
	pool, _, set := strings.Cut(device, "/")
	if pool == "" || strings.Contains(device, ":") {
		return "", false
	}
	return pool, set || mounted == "/"+pool && !slices.Contains([]string{"dev", "run", "tmp", "proc", "sys"}, pool)
}

// parseDeployments reads `rpm-ostree status --json`. What comes before the booted
// deployment waits for a boot, which brings the first, unless that is locked.
func parseDeployments(facts *event.Facts, status string) error {
	var list struct {
		Deployments []struct {
			Booted   bool   `json:"booted"`
			Version  string `json:"version"`
			Checksum string `json:"checksum"`
			Base     string `json:"base-checksum"`
			Locked   bool   `json:"finalization-locked"`
		} `json:"deployments"`
		Driver struct {
			Name string `json:"driver-name"`
		} `json:"update-driver"`
	}
	if err := json.Unmarshal([]byte(status), &list); err != nil {
		return errors.New("its rpm-ostree status cannot be read")
	}
	facts.UpdateDriver = line(list.Driver.Name, maxText)
	for i, d := range list.Deployments {
		id := line(d.Checksum, maxText)
		name, base := cmp.Or(line(d.Version, maxText), id), line(d.Base, maxText)
		if i == 0 && !d.Booted {
			facts.Pending, facts.PendingID, facts.PendingBase, facts.Locked = name, id, base, d.Locked
		}
		if d.Booted {
			facts.Version, facts.BootedID, facts.BootedBase = name, id, base
			if name == "" {
				return errors.New("its booted deployment has neither version nor checksum")
			}
			return nil
		}
	}
	return fmt.Errorf("none of its %d deployments is the booted one", len(list.Deployments))
}

// number reads a decimal number from 0 to limit; anything else is 0.
func number(text string, limit int64) int64 {
	text = strings.TrimSpace(text)
	if len(text) > len(strconv.FormatInt(math.MaxInt64, 10)) {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > limit {
		return 0
	}
	return n
}
