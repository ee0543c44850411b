package ssh

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
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
	release := parseRelease(a["os-release"])
	if release["ID"] == "" {
		return event.Facts{}, errors.New("its /etc/os-release has no ID")
	}
	boot, err := parseBootID(a["boot-id"])
	if err != nil {
		return event.Facts{}, err
	}
	facts := event.Facts{
		OS:        release["ID"],
		OSRelease: strings.TrimSpace(release["ID"] + " " + release["VERSION_ID"]),
		CPUs:      int(number(a["cpus"], maxCPUs)),
		Memory:    parseMemory(a["memory"]),
		Space:     parseSpace(a["space"]),
		Arch:      line(a["machine"], maxText),
		BootID:    boot,
		Version:   strings.TrimSpace(release["VERSION_ID"] + " " + line(a["kernel"], maxText)),
	}
	status, ostree := a["rpm-ostree"]
	if !ostree {
		if newest := newestKernel(a["kernels"]); newest != "" && newest != line(a["kernel"], maxText) {
			facts.Pending = strings.TrimSpace(release["VERSION_ID"] + " " + newest)
		}
		return facts, nil
	}
	facts.OS, facts.OSTree = "atomic", true
	facts.Version, facts.Pending, err = parseDeployments(status)
	return facts, err
}

// newestKernel is the latest of the installed kernels, which the next boot
// usually brings; "" where none is known.
func newestKernel(list string) (newest string) {
	for row := range strings.Lines(clip(list, 64<<10)) {
		if name := line(row, maxText); name != "" && (newest == "" || compareVersions(name, newest) > 0) {
			newest = name
		}
	}
	return newest
}

// compareVersions compares part by part as rpm does: numbers by their value, and
// a number is newer than letters (3.10.0-1160.119.1.el7 than 3.10.0-1160.el7).
func compareVersions(a, b string) int {
	x, y := versionParts.FindAllString(a, -1), versionParts.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		n, nErr := strconv.ParseUint(x[i], 10, 63)
		m, mErr := strconv.ParseUint(y[i], 10, 63)
		order := cmp.Compare(x[i], y[i])
		switch {
		case nErr == nil && mErr == nil:
			order = cmp.Compare(n, m)
		case nErr == nil:
			order = 1
		case mErr == nil:
			order = -1
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(len(x), len(y))
}

var versionParts = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)

func parseBootID(text string) (string, error) {
	id := strings.TrimSpace(text)
	if !bootID.MatchString(id) {
		return "", errors.New("its boot id cannot be read")
	}
	return id, nil
}

// parseRelease reads lines of NAME=value, NAME="value" and NAME='value'.
func parseRelease(text string) map[string]string {
	values := map[string]string{}
	for entry := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSpace(entry), "=")
		if !found {
			continue
		}
		if n := len(value); n >= 2 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
			value = value[1 : n-1]
		}
		values[name] = line(strings.NewReplacer(`\"`, `"`, `\$`, `$`, `\\`, `\`, "\\`", "`").Replace(value), maxText/2)
	}
	return values
}

// parseMemory reads "MemTotal:  16000 kB".
func parseMemory(text string) int64 {
	fields := strings.Fields(clip(text, 1024))
	if len(fields) < 2 || fields[0] != "MemTotal:" {
		return 0
	}
	return number(fields[1], maxBytes)
}

// parseSpace adds up the sizes that `df -Pk` shows, each block device once.
// What is mounted from files (loop devices) lies on another of them.
func parseSpace(text string) int64 {
	var sum int64
	seen := map[string]bool{}
	for row := range strings.Lines(text) {
		fields := strings.Fields(row)
		if len(fields) < 6 {
			continue
		}
		device := fields[0]
		if !strings.HasPrefix(device, "/dev/") || strings.HasPrefix(device, "/dev/loop") || seen[device] {
			continue
		}
		seen[device] = true
		sum = min(sum+number(fields[1], maxBytes), maxBytes)
	}
	return sum
}

// parseDeployments reads `rpm-ostree status --json`. The first deployment is
// the one that the next boot brings.
func parseDeployments(status string) (booted, pending string, err error) {
	var list struct {
		Deployments []struct {
			Booted   bool   `json:"booted"`
			Version  string `json:"version"`
			Checksum string `json:"checksum"`
		} `json:"deployments"`
	}
	if err := json.Unmarshal([]byte(status), &list); err != nil {
		return "", "", errors.New("its rpm-ostree status cannot be read")
	}
	for i, d := range list.Deployments {
		name := line(d.Version, maxText)
		if name == "" {
			name = line(d.Checksum, maxText)
		}
		if i == 0 {
			pending = name
		}
		if d.Booted {
			if i == 0 {
				pending = ""
			}
			if name == "" {
				return "", "", errors.New("its booted deployment has neither version nor checksum")
			}
			return name, pending, nil
		}
	}
	return "", "", fmt.Errorf("none of its %d deployments is the booted one", len(list.Deployments))
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
