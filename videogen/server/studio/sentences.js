// What the server says, in the language of the page. It speaks English; sentences that a user of this page can meet are
// known here by their pattern, all others stay as they are.

import { language } from "/studio/i18n.js";

const NAMES = {
  first_frame: "首帧", last_frame: "尾帧", subjects: "主角图片", "subject 1": "主角图片 1", "subject 2": "主角图片 2", file: "图片", keyframes: "关键帧", source: "原片段", prompt: "提示词",
  duration: "时长", num_frames: "帧数", fps: "帧率", width: "宽度", height: "高度", "width and height": "尺寸", watermark: "标记", seed: "种子", steps: "步数", camera: "镜头",
  guidance_scale: "引导强度", negative_prompt: "避免出现",
  movement: "动作", place: "地点", "camera move": "运镜", "movement, no place": "动作和地点", "movement, no camera move": "动作和运镜", "place, no camera move": "地点和运镜",
  "movement, no place, no camera move": "动作、地点和运镜",
};

const PATTERNS = [
  [/^the model does not know '(.+)'; the nearest it knows: (.+)\.$/, "模型不认识“$1”；相近的有：$2。"],
  [/^the model does not know '(.+)'; .+$/, "模型不认识“$1”。"],
  [/^'(.+)' was read as '(.+)'\.$/, "“$1”读作“$2”。"],
  [/^no (.+) was named, '(.+)' and (\[.+\]) were added; .+$/, "没有说明$1，已添加“$2”和 $3。"],
  [/^no (.+) was named, '?(.+?)'? was added; .+$/, "没有说明$1，已添加“$2”。"],
  [/^the model has not learnt \[(.+)\]; it knows (.+)\.$/, "模型没有学过 [$1]；它会的是 $2。"],
  [/^video \d+ is almost black; try another seed\.$/, "画面几乎全黑；请换个种子。"],
  [/^video \d+ hardly moves although a camera movement was asked for; try another seed\.$/, "要求了运镜，画面却几乎不动；请换个种子。"],
  [/^camera command \[(.+)\] was read as \[(.+)\]\.$/, "镜头指令 [$1] 读作 [$2]。"],
  [/^camera command \[(.+)\] stands twice in \[(.+)\] and counts once\.$/, "镜头指令 [$1] 在 [$2] 中出现两次，只算一次。"],
  [/^camera command \[(.+)\] is unknown; the nearest is \[(.+)\]\. Known: .+$/, "没有镜头指令 [$1]；最接近的是 [$2]。"],
  [/^\[(.+)\] asks for (\d+) camera movements at once; at most (\d+) are advised\.$/, "[$1] 同时要求 $2 个运镜；建议最多 $3 个。"],
  [/^camera commands of one bracket must not contradict each other, got \[(.+)\] with \[(.+)\]; .+$/, "同一括号中的镜头指令互相矛盾：[$1] 与 [$2]；请只留一个，或分成先后两个括号。"],
  [/^(\w+(?: [\d.]+)?) was cropped at the centre from (\S+) to (\S+)\.$/, "$1居中裁剪：$2 → $3。"],
  [/^(\w+(?: [\d.]+)?) was (?:reduced|enlarged) to (\d+x\d+)\.$/, "$1缩放到 $2。"],
  [/^(\w+) was reduced from 16 to 8 bits\.$/, "$1由 16 位降为 8 位。"],
  [/^(\w+) was turned upright as its EXIF orientation says\.$/, "$1已按 EXIF 方向转正。"],
  [/^(\w+) has an alpha channel; it was flattened on white\.$/, "$1带透明通道，已铺在白底上。"],
  [/^(\w+) was converted from (.+) to (s?RGB)\.$/, "$1由 $2 转换为 $3。"],
  [/^(\w+) has an unusable colour profile; it was read as sRGB\.$/, "$1的色彩配置无法使用，已按 sRGB 读取。"],
  [/^(\w+) holds (\d+) views; the first was used\.$/, "$1含 $2 个视图，只用第一个。"],
  [/^(\w+) must be a still picture, got an animation.*$/, "$1必须是静态图片，不能是动画；请另存其中一帧。"],
  [/^(\w+) must be a picture .+$/, "$1必须是图片（PNG、JPEG 等），这个文件不是。"],
  [/^(\w+) must be an intact picture.*$/, "$1已损坏或不完整；请重新保存。"],
  [/^(\w+) must be at least (\d+) pixels wide and high, got ([\dx]+).*$/, "$1宽高至少 $2 像素，现在是 $3。"],
  [/^(\w+) must have (\d+) to (\d+) pixels, got ([\dx]+)\.$/, "$1须有 $2 到 $3 像素，现在是 $4。"],
  [/^(\w+) must have at most (\d+)( million)? pixels.*$/, "$1的像素过多；请先缩小。"],
  [/^(\w+) must have at most (\d+) bytes.*$/, "$1最多 $2 字节；请先缩小。"],
  [/^(\w+) must have at most (\d+) frames.*$/, "$1最多 $2 帧；请先剪短。"],
  [/^(\w+) must hold frames at (\S+) to (\S+) per second.*$/, "$1的帧率须在每秒 $2 到 $3 帧之间。"],
  [/^(\w+) must not be longer than (\S+) to 1, got ([\dx]+).*$/, "$1长宽比不得超过 $2:1，现在是 $3；请先裁剪。"],
  [/^(\w+) (\S+) s became (\S+) s \((\d+)(?: new)? frames.*$/, "$1 $2 秒调整为 $3 秒（$4 帧）。"],
  [/^(\w+(?: and \w+)?) (\S+) became (\S+?)(?: new frames)?, the nearest .+$/, "$1 $2 调整为 $3。"],
  [/^(\w+) (\S+)(?: s)? is beyond the (\S+) seconds that this server makes\.$/, "$1 $2 超出此服务器的上限 $3 秒。"],
  [/^watermark is on: the operator of this server marks every clip\.$/, "此服务器的运营者要求每个片段都带可见标记。"],
  [/^(\w+) was rewritten: (.+)\.$/, "$1已改写：$2。"],
  [/^(\w+) must not be empty.*$/, "$1不能为空。"],
];

// One sentence, or several that the server put together; backticks around names of arguments go.
export function say(text) {
  const plain = text.replaceAll("`", "");
  if (language !== "zh") return plain;
  return plain.split(/(?<=[.。]) (?=[a-z[])/).map(translated).join("");
}

function translated(sentence) {
  for (const [pattern, chinese] of PATTERNS) {
    const found = sentence.match(pattern);
    if (found) return chinese.replace(/\$(\d)/g, (_, group) => NAMES[found[group]] ?? found[group]);
  }
  return sentence;
}
