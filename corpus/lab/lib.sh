# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Shared by the lab's commands: packages of any architecture by name, and an initramfs around one init.
#
# Packages come through apt with lists and state of its own per architecture and suite, below LAB_CACHE:
# the host gets no foreign architecture, and a second run downloads nothing.

lab_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab_cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dumpconv-lab}

# lab_host PACKAGE...: programs that the lab runs on this machine.
lab_host() {
	local package missing=()
	for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
	[ ${#missing[@]} = 0 ] && return 0
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 && return 0
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

# lab_apt ARCH SUITE TOOL ARGUMENT...: apt-get or apt-cache as a machine of ARCH would run it.
lab_apt() {
	local arch=$1 suite=$2 tool=$3 state site name
	shift 3
	state=$lab_cache/apt-$arch-$suite
	if [ ! -f "$state/status" ]; then
		mkdir -p "$state"/{lists/partial,archives/partial}
		# The mirrors are the host's own.
		# shellcheck disable=SC2016
		apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u | while read -r site; do
			name=$suite
			case $site in *security*) name=$suite-security ;; esac
			echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $name main"
		done >"$state/sources.list"
		touch "$state/status"
		# A mirror in the middle of a sync has lists that apt rejects: go on with those that it verified.
		if ! lab_apt "$arch" "$suite" apt-get update -qq >&2; then
			compgen -G "$state/lists/*_Packages*" >/dev/null || { rm -f "$state/status"; return 1; }
			echo "some $arch lists are missing: older packages may be taken" >&2
		fi
	fi
	"$tool" -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state" \
		-o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o APT::Architecture="$arch" -o APT::Architectures::="$arch" -o APT::Sandbox::User=root "$@"
}

# lab_unpack ARCH SUITE PACKAGE: prints the directory that holds the package's files. A kernel's meta package is followed.
lab_unpack() {
	local arch=$1 suite=$2 package=$3 real target
	target=$lab_cache/$arch-$suite-$package
	if [ ! -f "$target/.package" ]; then
		real=$package
		case $package in
		linux-image-*) real=$(lab_apt "$arch" "$suite" apt-cache depends "$package" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1) ;;
		esac
		rm -rf "$target" && mkdir -p "$target/.deb"
		(cd "$target/.deb" && lab_apt "$arch" "$suite" apt-get download -qq "${real:-$package}" >&2) || return 1
		dpkg -x "$target"/.deb/*.deb "$target" || return 1
		[ -d "$target/lib" ] || [ ! -d "$target/usr/lib" ] || ln -s usr/lib "$target/lib"
		ls "$target/.deb" >"$target/.package"
		rm -rf "$target/.deb"
	fi
	echo "$target"
}

# lab_kernel DIR: the boot image in an unpacked kernel package.
lab_kernel() { find "$1/boot" -name 'vmlinu[xz]-*' | head -1; }

# lab_root DIR BUSYBOX KERNELDIR MODULE...: an init tree: busybox, init, and those of the modules that exist, in load order.
lab_root() {
	local root=$1 busybox=$2 kernel=$3 version module
	shift 3
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,mnt,mods}
	install -m 755 "$busybox" "$root/bin/busybox"
	install -m 755 "$lab_here/init" "$root/init"
	version=$(basename "$kernel"/lib/modules/*)
	depmod -b "$kernel" "$version" 2>/dev/null
	for module in "$@"; do
		modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" {print $2}' || true
	done | awk '!seen[$0]++' | while read -r file; do
		module=$(basename "$file" .xz)
		case $file in *.xz) xz -dc "$file" >"$root/mods/$module" ;; *) cp "$file" "$root/mods/" ;; esac
		echo "$module"
	done >"$root/mods/order"
}

# lab_needs FILE: the libraries and the interpreter that an ELF program of any architecture asks for.
lab_needs() { readelf -ld "$1" 2>/dev/null | sed -n 's/.*Shared library: \[\(.*\)\]/\1/p; s/.*program interpreter: \(.*\)\]/\1/p'; }

# lab_libraries ARCH SUITE PACKAGE...: the library packages that these need, and those that those need.
lab_libraries() {
	local arch=$1 suite=$2 all='' next
	shift 2
	while [ $# -gt 0 ]; do
		next=$(lab_apt "$arch" "$suite" apt-cache depends "$@" | sed -nE 's/^ *Depends: ((lib|zlib)[^ ]*)$/\1/p' | grep -Ev 'perl|debconf' | sort -u)
		# shellcheck disable=SC2046,SC2086
		set -- $(comm -13 <(printf '%s\n' $all | sort -u) <(printf '%s\n' $next))
		all="$all $*"
	done
	echo "$all"
}

# lab_programs DIR ARCH SUITE PACKAGE...: the programs of these packages, with the libraries that they load.
lab_programs() {
	local root=$1 arch=$2 suite=$3 package trees=() queue=() file needed found
	shift 3
	for package in "$@"; do
		trees+=("$(lab_unpack "$arch" "$suite" "$package")") || return 1
		for file in "${trees[-1]}"/{bin,sbin,usr/bin,usr/sbin}/*; do
			[ "$(head -c 4 "$file" 2>/dev/null | tail -c 3)" = ELF ] || continue
			cp "$file" "$root/bin/"
			queue+=("$file")
		done
	done
	for package in $(lab_libraries "$arch" "$suite" "$@"); do
		trees+=("$(lab_unpack "$arch" "$suite" "$package")") || return 1
	done
	mkdir -p "$root/lib"
	while [ ${#queue[@]} -gt 0 ]; do
		file=${queue[-1]}
		unset 'queue[-1]'
		for needed in $(lab_needs "$file"); do
			[ ! -e "$root/lib/$(basename "$needed")" ] || continue
			found=$(find -L "${trees[@]}" -path '*/lib*' -name "$(basename "$needed")" 2>/dev/null | head -1)
			[ -n "$found" ] || { echo "$file needs $needed, which no package has" >&2; return 1; }
			cp -L "$found" "$root/lib/"
			# The interpreter is asked for by its path.
			case $needed in /*) mkdir -p "$root$(dirname "$needed")" && cp -nL "$found" "$root$needed" ;; esac
			queue+=("$found")
		done
	done
}

# lab_pack DIR OUT: the tree as an initramfs.
lab_pack() { (cd "$1" && find . | cpio -o -H newc --quiet -R 0:0 | gzip -1) >"$2"; }
