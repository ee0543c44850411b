package ssh

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// nextKernel is the kernel that the next boot brings instead of the running one:
// what the boot loader names, else the newest of the same flavour that the package
// manager has installed. It is of the running flavour, installed, and belongs to a
// package where the package manager tells of any. "" is nothing new, and also where
// that cannot be told: the running kernel is from outside, for example.
func nextKernel(running string, a answer) string {
	flavour := flavourOf(running)
	packaged := kernelPackages(a["kernel-packages"])
	var installed []string
	for row := range strings.Lines(clip(a["kernels"], 64<<10)) {
		name := line(row, maxText)
		if name != "" && (len(packaged) == 0 || slices.Contains(packaged, name)) {
			installed = append(installed, name)
		}
	}
	if running == "" || !slices.Contains(installed, running) {
		return ""
	}
	for row := range strings.Lines(clip(a["boot-loader"], 64<<10)) {
		if name := mentioned(row, installed); name != "" && flavourOf(name) == flavour {
			return other(name, running)
		}
	}
	newest := running
	for _, name := range packaged {
		if slices.Contains(installed, name) && flavourOf(name) == flavour && compareVersions(name, newest) > 0 {
			newest = name
		}
	}
	return other(newest, running)
}

func other(name, running string) string {
	if name == running {
		return ""
	}
	return name
}

// flavourOf is what tells kernels of one kind from those of another, whatever their
// version: amd64 of 6.1.0-28-amd64, rpi-v8 of 6.6.51+rpt-rpi-v8, v8+ of 6.1.21-v8+,
// el+debug of 5.14.0-503.el9.x86_64+debug, rtel of 4.18.0-553.rt7.342.el8.x86_64.
func flavourOf(kernel string) string {
	kernel = rebuild.ReplaceAllLiteralString(releaseCandidate.ReplaceAllLiteralString(kernel, ""), "")
	if span := rpmArch.FindStringSubmatchIndex(kernel); span != nil {
		return strings.Join(letters.FindAllString(kernel[:span[0]], -1), "") + kernel[span[3]:]
	}
	if span := debFlavour.FindStringIndex(kernel); span != nil {
		return kernel[span[0]+1:]
	}
	return strings.TrimLeft(kernel, "0123456789.-")
}

var (
	rpmArch          = regexp.MustCompile(`\.(x86_64|i[3-6]86|aarch64|armv7hl|ppc64le|ppc64|s390x|riscv64|loongarch64)(?:$|[^0-9A-Za-z_])`)
	letters          = regexp.MustCompile(`[A-Za-z]+`)
	debFlavour       = regexp.MustCompile(`-[A-Za-z].*$`)
	releaseCandidate = regexp.MustCompile(`-rc[0-9]+`)
	rebuild          = regexp.MustCompile(`(\.[0-9]+)+$`) // of the same kernel
)

// kernelPackages are the kernels that dpkg-query says are installed.
func kernelPackages(list string) (kernels []string) {
	for row := range strings.Lines(clip(list, 64<<10)) {
		fields := strings.Fields(row)
		if len(fields) != 2 || len(fields[0]) < 2 || fields[0][1] != 'i' { // what is wanted, and what is so
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(fields[1], "linux-image-"), "unsigned-")
		name = line(strings.TrimSuffix(name, "-unsigned"), maxText)
		if name != "" && name[0] >= '0' && name[0] <= '9' { // else it is one that only depends on others
			kernels = append(kernels, name)
		}
	}
	return kernels
}

// mentioned is the kernel that a text of the boot loader's is about, the longest of
// those whose names are in it: a path, a title or the name of an entry.
func mentioned(text string, kernels []string) (found string) {
	for _, name := range kernels {
		i := strings.Index(text, name)
		if i < 0 || len(name) <= len(found) || i > 0 && wordByte(text[i-1]) {
			continue
		}
		found = name
	}
	return found
}

func wordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.'
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
