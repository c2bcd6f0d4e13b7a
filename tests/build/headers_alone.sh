#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# Every header compiles alone, without a warning; and what is not io or a backend reads no file but
# our own and the standard library's. Environment: CXX SOURCE SCRATCH, EIGEN, ONEDNN and MPI, which
# are include directories (the last two empty where they are off), CCACHE (may be empty)
set -eu

name=$(basename "$CXX")
work=$SCRATCH/headers_alone.$name
rm -rf "$work"
CCACHE=${CCACHE:-}
export CCACHE_BASEDIR="$SOURCE" CCACHE_NOHASHDIR=true
mkdir -p "$work"

# The reference: the files behind all standard headers, as this compiler finds them.
for header in algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat \
  charconv chrono cinttypes climits clocale cmath codecvt compare complex concepts \
  condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint cstdio cstdlib cstring \
  ctime cuchar cwchar cwctype deque exception execution filesystem format forward_list fstream \
  functional future initializer_list iomanip ios iosfwd iostream istream iterator latch limits \
  list locale map memory memory_resource mutex new numbers numeric optional ostream queue random \
  ranges ratio regex scoped_allocator semaphore set shared_mutex source_location span sstream \
  stack stdexcept stop_token streambuf string string_view strstream syncstream system_error \
  thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray \
  variant vector version; do
  # <execution> of libstdc++ reads a third party's library.
  [ $header = execution ] || printf '#if __has_include(<%s>)\n#include <%s>\n#endif\n' $header $header
done > "$work/standard.cpp"
"$CXX" -std=c++20 -w -M "$work/standard.cpp" | tr -d '\\' | tr -s ' ' '\n' | sort -u > "$work/standard"

cd "$SOURCE"
folders='include backends/eigen/include backends/cuda/include'
third_party="-isystem $EIGEN"
without=
if [ -z "$ONEDNN" ]; then
  without='; those of backends/onednn were left out: no oneDNN'
elif ! echo '#include <omp.h>' | "$CXX" -fsyntax-only -x c++ - 2> /dev/null; then
  without='; those of backends/onednn were left out: no <omp.h> (Debian, for clang: libomp-dev)'
else
  folders="$folders backends/onednn/include"
  # Naming /usr/include would hide the C headers from those of the standard library.
  [ "$ONEDNN" = /usr/include ] || third_party="$third_party -isystem $ONEDNN"
fi
if [ -n "${MPI:-}" ]; then
  folders="$folders backends/mpi/include"
  third_party="$third_party -isystem $MPI"
fi
# shellcheck disable=SC2086
find $folders -name '*.hpp' | sort > "$work/headers"
case $("$CXX" -dumpmachine) in
  x86_64-*) ;;
  *)
    grep -v '/onednn/x86/' "$work/headers" > "$work/portable_headers"
    mv "$work/portable_headers" "$work/headers"
    ;;
esac

cat > "$work/one.sh" <<'ONE'
set -u
header=$1
log=$work/$(echo "$header" | tr / _)
inner=${header#*include/}
echo "#include <$inner>" > "$log.cpp"
$CCACHE "$CXX" -std=c++20 -O0 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Werror \
  -I include -I backends/eigen/include -I backends/onednn/include -I backends/cuda/include -I backends/mpi/include $third_party -MD -MF "$log.d" -c "$log.cpp" -o "$log.o" \
  > "$log.out" 2>&1 || { echo "$header does not compile alone:"; head -n 30 "$log.out"; exit 1; }
case $header in include/gistkv/io/* | backends/*) exit 0 ;; esac
foreign=$(sed 's/^[^:]*://' "$log.d" | tr -d '\\' | tr -s ' ' '\n' | sort -u |
  comm -23 - "$work/standard" | grep -v '^include/gistkv/' | grep -v -e "/${log##*/}.cpp$" -e '^$')
[ -z "$foreign" ] || { echo "$header reads more than the standard library: $(echo "$foreign" | head -n 3 | tr "\n" " ")"; exit 1; }
ONE
export work CXX CCACHE third_party
if ! xargs -n 1 -P 2 sh "$work/one.sh" < "$work/headers" > "$work/result"; then
  cat "$work/result"
  exit 1
fi
echo "$(wc -l < "$work/headers") headers compile alone with $name$without"
