# Run on a node, by its own shell: sees to it that the environment is unpacked here, once for all pools, and runs its
# Python. Nothing of a shared file system is touched but one file, and not even that where it was unpacked before.
#
#   BASE/mainstay-stage-UID/        ours alone
#     DIGEST/                       a tree; it gets this name when it is whole
#     DIGEST.lock                   held (shared) by all that run from it; its time tells when the last began
#     DIGEST.make                   held by the one that looks whether it is whole, and unpacks
#     DIGEST.new/                   what is being unpacked
#     sent-…                        a copy that was brought here, until it is unpacked
#     home/                         HOME
#     work-…/tasks/  …/modules/     a pool's working directory, and the user's modules; held (shared) like a tree.
#                                   Where tasks left files, it is kept as long as a tree is
#
# What stands in the way is told to the agent, which then runs from the shared file system.

archive=$1 sent=$2 start=$3 digest=$4 files=$5 size=$6 room=$7 how=$8 code=$9  # of an image, `size` is its stamp
shift 9  # what is left runs the agent from the shared file system
days=${MAINSTAY_STAGE_DAYS:-7}  # without use, after which a tree is removed
system=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
path=$PATH libraries=${MAINSTAY_STAGE_LIBRARIES-$LD_LIBRARY_PATH}
unset LD_LIBRARY_PATH MAINSTAY_STAGE_LIBRARIES  # what is started here would look on the shared file system first
PATH=$system:$PATH
uid=$(id -u) why='' home='' fresh='' brought='' tried=''
unpacks=yes
[ "$how" = squashfs ] && unpacks=''
# What becomes of the directory of a pool that has ended: a process that mounted an image may have been killed.
sweep='rmdir "$1/tasks" && { [ ! -d "$1/image" ] || rmdir "$1/image" || fusermount3 -u -z "$1/image"; rm -rf "$1"; }'
read -r begun _ </proc/uptime

# Whether a directory is of this node, and may be written to.
serves() {
    case $1 in /*) ;; *) return 1 ;; esac
    [ -d "$1" ] && [ -w "$1" ] || return 1
    [ "$1" = "$MAINSTAY_STAGE_DIR" ] && return
    case $(stat -f -c %T "$1" 2>/dev/null) in
        9p | v9fs | afs | *beegfs* | ceph | cifs | smb* | fuse | gpfs | lustre | nfs* | panfs | wekafs) return 1 ;;
    esac
}

has_room() {
    free=$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }')
    wanted=$((room / 1024))
    [ "$1" = /dev/shm ] && wanted=$((2 * wanted))  # it is memory, of which the workers want some too
    [ "${free:-0}" -gt "$wanted" ]
}

# Remove trees that nobody uses, the oldest first: those that further words for `find` choose, or until there is room.
remove_unused() (
    cd "$1" 2>/dev/null && shift || exit
    for lock in $(find . -maxdepth 1 -name '*.lock' "$@" -printf '%T@ %f\n' | sort -n | cut -d ' ' -f 2); do
        old=${lock%.lock}
        [ "$old" != "$digest" ] && [ -e "$old" ] || continue
        [ $# = 0 ] && has_room . && break
        (flock -n 8 && flock -n 9 && mv "$old" "$old.gone" && rm -rf "$old.gone") 8>>"$old.make" 9>>"$old.lock"
    done
    [ $# = 0 ] || find . -maxdepth 1 -name 'work-*' "$@" -exec flock -n {} rm -rf {} ';'
)

# Have `home`, where the tree is already or where there is room for it: in MAINSTAY_STAGE_DIR, or else in one of three.
choose() {
    for base in "${MAINSTAY_STAGE_DIR:-$TMPDIR}" "${MAINSTAY_STAGE_DIR:-/tmp}" "${MAINSTAY_STAGE_DIR:-/dev/shm}"; do
        [ -d "$base/mainstay-stage-$uid/$digest" ] && serves "$base" && settle "$base" && return
    done
    for base in "${MAINSTAY_STAGE_DIR:-$TMPDIR}" "${MAINSTAY_STAGE_DIR:-/tmp}" "${MAINSTAY_STAGE_DIR:-/dev/shm}"; do
        serves "$base" || continue
        has_room "$base" || remove_unused "$base/mainstay-stage-$uid"
        has_room "$base" && settle "$base" && return
        [ "$base" = "$MAINSTAY_STAGE_DIR" ] && tried=" $base" || tried="$tried $base"
    done
    why="no room for $((room / 1000000)) MB in${tried:- any local directory}; MAINSTAY_STAGE_DIR may name another"
    return 1
}

# The copy that was sent may take the room that the tree wants; the archive itself is read then.
retry_without_copy() {
    [ -n "$sent" ] && rm -f "$sent" || return 1
    sent='' why='' tried=''
    choose
}

settle() {
    home=$1/mainstay-stage-$uid
    mkdir -m 700 "$home" 2>/dev/null
    [ -d "$home" ] && [ ! -L "$home" ] && [ -O "$home" ] || return 1
    (: >>"$home/$digest.lock" && : >>"$home/$digest.make") 2>/dev/null
}

# Whether what is there is what was packed. Bytecode may have come or gone.
is_whole() {
    [ -d "$1" ] || return 1
    found=$(find "$1" -type f ! -name '*.pyc' -printf '%s\n' | LC_ALL=C awk '{ n++; s += $1 } END { printf "%d %.0f", n, s }')
    [ "$found" = "$files $size" ]
}

# Unpack a file beside its place, and say whether it is what was packed.
extract() {
    rm -rf "$new" "$new".*  # of one that was killed, or of a copy that was not whole
    mkdir "$new" || return 1
    sum=$({
        tail -c "+$((start + 1))" "$1" | tee /dev/fd/3 | "$how" -dc | tar -x -o -f - -C "$new" >/dev/null &&
            : >"$new.done"
    } 3>&1 2>"$new.said" | sha256sum)
    [ -e "$new.done" ] && [ "${sum%% *}" = "$digest" ] && is_whole "$new"
}

unpack() {
    new=$home/$digest.new
    if [ -n "$sent" ] && [ -r "$sent" ] && extract "$sent"; then
        brought=yes
    elif ! extract "$archive"; then
        why="$archive did not unpack whole into $home: $(tail -c 300 "$new.said" | tr '\n' ' ')"
    fi
    if [ -n "$why" ]; then
        :
    elif ! said=$("$new/bin/python3" -s -c "$code" look 2>&1); then
        why="its Python does not run on this node: $(echo "$said" | tail -n 1)"
    else
        rm -rf "${home:?}/$digest"  # which is not whole, and not in use
        mv "$new" "$home/$digest" && fresh=yes || why="$home cannot be written to"
    fi
    rm -rf "$new" "$new".*
    [ -z "$why" ]
}

# Have a process mount the image that ends with the agent. What is cut short has lost its tables, and is not mounted.
mount_by_process() {
    fuse=$(command -v squashfuse_ll || command -v squashfuse) && command -v setpriv >/dev/null ||
        { why="an image wants squashfuse and setpriv, or root"; return 1; }
    setpriv --pdeathsig TERM "$fuse" -f -o "offset=$start" "$archive" "$tree" 7<&- 8>&- 9>&- >/dev/null &
    until read -r found <"$tree/.mainstay-stamp"; do
        kill -0 $! || { why="squashfuse could not mount $archive"; return 1; }
        sleep 0.01
    done
}

# Have the kernel mount it, which asks for some more. A name in our own directory is bound to the image first: the tools
# look at each directory of a path again and again.
mount_by_kernel() {
    [ "$uid" = 0 ] && : >"$work/file" && mount -c --bind "$archive" "$work/file" || return 1
    mount -t squashfs -o "loop,ro,offset=$start" "$work/file" "$tree" && read -r found <"$tree/.mainstay-stamp"
}

# Mount an image: what mounts it, or what it is mounted in (a name space), ends with the agent.
mount_image() {
    tree=$work/image
    fresh=yes
    mkdir "$tree" && { mount_by_process || mount_by_kernel; } || return 1
    why=''
    [ "$found" = "$size" ] || { why="$archive is not what it was: it was packed anew"; return 1; }
}

stand() {
    for tool in flock sha256sum find awk df stat tail tee tar ${unpacks:+"$how"}; do
        command -v "$tool" >/dev/null || { why="there is no program $tool on this node"; return 1; }
    done
    choose || retry_without_copy || return 1
    tree=$home/$digest
    exec 8>>"$home/$digest.make" 9>>"$home/$digest.lock"
    flock 8
    if [ -n "$unpacks" ] && ! is_whole "$tree"; then
        flock -n 9 || { why="$tree is damaged, and in use"; return 1; }
        unpack || return 1
    fi
    flock -s 9  # until the agent and all its workers have ended
    exec 8>&-
    touch "$home/$digest.lock"
    remove_unused "$home" -mmin "+$((days * 1440))"
    exec 8>>"$home/make"
    flock 8
    find "$home" -maxdepth 1 -name 'work-*' -exec flock -n {} sh -c "$sweep" sh {} ';'
    find "$home" ${sent:+"${sent%/*}"} -maxdepth 1 -name 'sent-*' -mmin +60 -exec rm -f {} +
    mkdir -p -m 700 "$home/home" && work=$(mktemp -d "$home/work-XXXXXX") && mkdir "$work/tasks" || return 1
    exec 7<"$work"
    flock -s 7
    exec 8>&-
    [ -n "$unpacks" ] || mount_image || return 1
    cd "$work/tasks"
}

stand 2>/dev/null
staged=$?
[ -z "$sent" ] || rm -f "$sent"
if [ "$staged" != 0 ]; then
    exec 7<&- 8>&- 9>&-
    export MAINSTAY_STAGE_WHY="${why:-$home cannot be used}" PATH="$path"
    [ -z "$libraries" ] || export LD_LIBRARY_PATH="$libraries"
    exec "$@"
fi
read -r now _ </proc/uptime
export MAINSTAY_STAGE_TREE="$tree" MAINSTAY_STAGE_SENT="$brought" MAINSTAY_STAGE_HOME="$HOME" MAINSTAY_STAGE_LIBRARIES="$libraries"
export MAINSTAY_STAGE_TOOK="$(LC_ALL=C awk "BEGIN { print ${fresh:+$now - $begun +} 0 }")" 
export HOME="$home/home" PATH="$tree/bin:$path"
unset PYTHONHOME PYTHONPATH PYTHONPYCACHEPREFIX PYTHONSTARTUP VIRTUAL_ENV
[ -z "$CONDA_PREFIX" ] || export CONDA_PREFIX="$tree"
exec "$tree/bin/python3" -s -c "$code"
